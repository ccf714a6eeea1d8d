// ReLU and SwiGLU's product, to floats and to flat integers.

struct ActivationParams {
  u32 rows, features;
};

FUNCTION float relu_of(float x) {
  return x <= 0.0f ? 0.0f : x;
}

FUNCTION float silu_mul_of(float gate, float up) {
  const double g = gate;
  return (float)(g / (1.0 + exp(-g)) * (double)up);
}

KERNEL(relu) {
  const auto p = params_of<ActivationParams>(call);
  float* x = binding<float>(call, 1);
  for (u64 n = first(); n < (u64)p.rows * p.features; n += step()) {
    x[n] = relu_of(x[n]);
  }
}

KERNEL(silu_mul) {
  const auto p = params_of<ActivationParams>(call);
  const float* x = binding<float>(call, 1);
  float* y = binding<float>(call, 2);
  for (u64 n = first(); n < (u64)p.rows * p.features; n += step()) {
    const float* row = x + n / p.features * 2 * p.features;
    y[n] = silu_mul_of(row[n % p.features], row[p.features + n % p.features]);
  }
}

KERNEL(relu_flat) {
  const auto p = params_of<FlattenParams>(call);
  const float* x = binding<float>(call, 1);
  const u32* map = binding<u32>(call, 2);
  u32* x_q = binding<u32>(call, 3);
  const u32 words = flat_words(p.flat_features);
  for (u64 n = first(); n < (u64)p.rows * words; n += step()) {
    const float* row = x + n / words * p.features;
    x_q[n] = flat_word(p, map, n % words, [&](u32 source) { return relu_of(row[source]); });
  }
}

KERNEL(silu_mul_flat) {
  const auto p = params_of<FlattenParams>(call);
  const float* x = binding<float>(call, 1);
  const u32* map = binding<u32>(call, 2);
  u32* x_q = binding<u32>(call, 3);
  const u32 words = flat_words(p.flat_features);
  for (u64 n = first(); n < (u64)p.rows * words; n += step()) {
    const float* row = x + n / words * 2 * p.features;
    x_q[n] = flat_word(p, map, n % words, [&](u32 source) { return silu_mul_of(row[source], row[p.features + source]); });
  }
}
