// Linears with float weights, of many rows and of few: one definition.

struct FloatLinearParams {
  u32 rows, in_features, out_features, first_out, out_stride, has_bias, accumulate;
};

// `weight_at(w, i)` is element i of the weights.
template <typename WeightAt>
FUNCTION void float_linear(const Call& call, WeightAt weight_at) {
  const auto p = params_of<FloatLinearParams>(call);
  const float* x = binding<float>(call, 1);
  const u32* w = binding<u32>(call, 2);
  const float* aux = binding<float>(call, 3);
  float* y = binding<float>(call, 4);
  for (u64 n = first(); n < (u64)p.rows * p.out_features; n += step()) {
    const u64 row = n / p.out_features, out = n % p.out_features;
    double sum = 0.0;
    for (u32 k = 0; k < p.in_features; k += 1) {
      sum += (double)x[row * p.in_features + k] * weight_at(w, out * padded(p.in_features) + k);
    }
    const float value = (float)(sum + (p.has_bias ? (double)aux[out] : 0.0));
    float& target = y[row * p.out_stride + p.first_out + out];
    target = p.accumulate ? target + value : value;
  }
}

struct F32Weight {
  METHOD double operator()(const u32* w, u64 i) const { return (double)float_of_bits(w[i]); }
};

struct F16Weight {
  METHOD double operator()(const u32* w, u64 i) const { return half_at(w, i); }
};

KERNEL(gemm_f32) { float_linear(call, F32Weight()); }
KERNEL(gemv_f32) { float_linear(call, F32Weight()); }
KERNEL(gemm_f16) { float_linear(call, F16Weight()); }
KERNEL(gemv_f16) { float_linear(call, F16Weight()); }
