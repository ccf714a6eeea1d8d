// Norms of rows and of heads, to floats and to flat integers.

struct NormParams {
  u32 rows, hidden;
  float eps;
};

struct FlatNormParams {
  u32 rows, features;
  float eps;
  u32 flat_features, q_max;
  float inv_scale;

  METHOD FlattenParams flattening() const {
    return FlattenParams{rows, features, flat_features, q_max, inv_scale};
  }
};

// 1 / sqrt(mean(x^2) + eps)
FUNCTION double inverse_rms(const float* x, u32 features, float eps) {
  double sum = 0.0;
  for (u32 i = 0; i < features; i += 1) {
    sum += (double)x[i] * (double)x[i];
  }
  return 1.0 / sqrt(sum / features + (double)eps);
}

FUNCTION float rms_normed(double inverse, float x, float weight) {
  return (float)((double)x * inverse * (double)weight);
}

struct Moments {
  double mean, inverse_deviation;
};

FUNCTION Moments moments(const float* x, u32 features, float eps) {
  double mean = 0.0;
  for (u32 i = 0; i < features; i += 1) {
    mean += (double)x[i];
  }
  mean /= features;
  double variance = 0.0;
  for (u32 i = 0; i < features; i += 1) {
    variance += ((double)x[i] - mean) * ((double)x[i] - mean);
  }
  variance /= features;
  return {mean, 1.0 / sqrt(variance + (double)eps)};
}

// `affine` has the weights, then the biases.
FUNCTION float layer_normed(const Moments& m, float x, const float* affine, u32 features, u32 i) {
  return (float)(((double)x - m.mean) * m.inverse_deviation * (double)affine[i] + (double)affine[features + i]);
}

// A thread has a row of floats, so that it finds the sums once.
KERNEL(rms_norm) {
  const auto p = params_of<NormParams>(call);
  const float* x = binding<float>(call, 1);
  const float* weight = binding<float>(call, 2);
  float* y = binding<float>(call, 3);
  for (u64 row = first(); row < p.rows; row += step()) {
    const double inverse = inverse_rms(x + row * p.hidden, p.hidden, p.eps);
    for (u32 i = 0; i < p.hidden; i += 1) {
      y[row * p.hidden + i] = rms_normed(inverse, x[row * p.hidden + i], weight[i]);
    }
  }
}

KERNEL(layer_norm) {
  const auto p = params_of<NormParams>(call);
  const float* x = binding<float>(call, 1);
  const float* affine = binding<float>(call, 2);
  float* y = binding<float>(call, 3);
  for (u64 row = first(); row < p.rows; row += step()) {
    const Moments m = moments(x + row * p.hidden, p.hidden, p.eps);
    for (u32 i = 0; i < p.hidden; i += 1) {
      y[row * p.hidden + i] = layer_normed(m, x[row * p.hidden + i], affine, p.hidden, i);
    }
  }
}

KERNEL(rms_norm_flat) {
  const auto p = params_of<FlatNormParams>(call);
  const float* x = binding<float>(call, 1);
  const float* weight = binding<float>(call, 2);
  const u32* map = binding<u32>(call, 3);
  u32* x_q = binding<u32>(call, 4);
  const u32 words = flat_words(p.flat_features);
  for (u64 n = first(); n < (u64)p.rows * words; n += step()) {
    const float* row = x + n / words * p.features;
    const double inverse = inverse_rms(row, p.features, p.eps);
    const auto value_of = [&](u32 source) { return rms_normed(inverse, row[source], weight[source]); };
    x_q[n] = flat_word(p.flattening(), map, n % words, value_of);
  }
}

KERNEL(layer_norm_flat) {
  const auto p = params_of<FlatNormParams>(call);
  const float* x = binding<float>(call, 1);
  const float* affine = binding<float>(call, 2);
  const u32* map = binding<u32>(call, 3);
  u32* x_q = binding<u32>(call, 4);
  const u32 words = flat_words(p.flat_features);
  for (u64 n = first(); n < (u64)p.rows * words; n += step()) {
    const float* row = x + n / words * p.features;
    const Moments m = moments(row, p.features, p.eps);
    const auto value_of = [&](u32 source) { return layer_normed(m, row[source], affine, p.features, source); };
    x_q[n] = flat_word(p.flattening(), map, n % words, value_of);
  }
}

struct HeadNormParams {
  u32 rows, heads, kv_heads, head_dim, stride;
  float eps;
};

KERNEL(head_norm) {
  const auto p = params_of<HeadNormParams>(call);
  const float* weights = binding<float>(call, 1);
  float* qkv = binding<float>(call, 2);
  const u32 heads = p.heads + p.kv_heads;
  for (u64 n = first(); n < (u64)p.rows * heads; n += step()) {
    const u32 head = n % heads;
    float* x = qkv + n / heads * p.stride + head * p.head_dim;
    // The queries' weights, then the keys'.
    const float* weight = weights + (head < p.heads ? 0 : p.head_dim);
    const double inverse = inverse_rms(x, p.head_dim, p.eps);
    for (u32 i = 0; i < p.head_dim; i += 1) {
      x[i] = rms_normed(inverse, x[i], weight[i]);
    }
  }
}
