// What rows of a linear's input add to its Hessian, and what integers have to do with floats of the same rows.

struct GramParams {
  u32 rows, features, columns;
};

// Of rows with themselves, only tiles of 64 by 64 on and above the diagonal.
FUNCTION bool is_computed(u32 a, u32 b) {
  return a / 64 <= b / 64;
}

KERNEL(gram_f32) {
  const auto p = params_of<GramParams>(call);
  const float* x = binding<float>(call, 1);
  float* h = binding<float>(call, 2);
  for (u64 n = first(); n < (u64)p.features * p.features; n += step()) {
    const u32 a = n / p.features, b = n % p.features;
    double sum = 0.0;
    for (u64 row = 0; row < p.rows; row += 1) {
      sum += (double)x[row * p.features + a] * (double)x[row * p.features + b];
    }
    if (is_computed(a, b)) {
      h[n] = (float)((double)h[n] + sum);
    }
  }
}

KERNEL(gram_i8) {
  const auto p = params_of<GramParams>(call);
  const u32* x = binding<u32>(call, 1);
  u32* h = binding<u32>(call, 2);
  for (u64 n = first(); n < (u64)p.features * p.features; n += step()) {
    const u32 a = n / p.features, b = n % p.features;
    int sum = 0;
    for (u64 row = 0; row < p.rows; row += 1) {
      sum += int8_at(x, row * p.features + a) * int8_at(x, row * p.features + b);
    }
    if (is_computed(a, b)) {
      h[n] += (u32)sum;
    }
  }
}

KERNEL(gram_cross) {
  const auto p = params_of<GramParams>(call);
  const u32* z = binding<u32>(call, 1);
  const float* x = binding<float>(call, 2);
  float* h = binding<float>(call, 3);
  for (u64 n = first(); n < (u64)p.features * p.columns; n += step()) {
    const u32 a = n / p.columns, b = n % p.columns;
    double sum = 0.0;
    for (u64 row = 0; row < p.rows; row += 1) {
      sum += int8_at(z, row * p.features + a) * (double)x[row * p.columns + b];
    }
    h[n] = (float)((double)h[n] + sum);
  }
}
