// Integers with a scale for each row.

struct DynamicParams {
  u32 rows, features, q_max;
  float inv_q_max;
};

// Rows whose largest magnitude is smaller become zeros: 2^-100.
const float ABSMAX_MIN = 7.888609052210118e-31f;

// a / b, rounded towards zero.
FUNCTION float quotient_toward_zero(float a, float b) {
#ifdef __CUDACC__
  return __fdiv_rz(a, b);
#else
  const float nearest = a / b;
  // The product is exact in double: 48 bits.
  return (double)nearest * (double)b > (double)a ? nextafterf(nearest, 0.0f) : nearest;
#endif
}

struct DynamicScale {
  float scale, inv_scale;
};

FUNCTION DynamicScale dynamic_scale(const float* x, u32 features, u32 q_max, float inv_q_max) {
  float absmax = 0.0f;
  for (u32 i = 0; i < features; i += 1) {
    absmax = fmaxf(absmax, fabsf(x[i]));
  }
  if (absmax < ABSMAX_MIN) {
    return {0.0f, 0.0f};
  }
  return {absmax * inv_q_max, quotient_toward_zero((float)q_max, absmax)};
}

FUNCTION int dynamic_step(const DynamicScale& s, u32 q_max, float x) {
  const float limit = (float)q_max;
  return (int)fminf(fmaxf(rintf(x * s.inv_scale), -limit), limit);
}

KERNEL(quantize_dynamic) {
  const auto p = params_of<DynamicParams>(call);
  const float* x = binding<float>(call, 1);
  u32* x_q = binding<u32>(call, 2);
  float* x_scale = binding<float>(call, 3);
  const u32 words = padded(p.features) / 4;
  for (u64 row = first(); row < p.rows; row += step()) {
    const float* values = x + row * p.features;
    const DynamicScale s = dynamic_scale(values, p.features, p.q_max, p.inv_q_max);
    x_scale[row] = s.scale;
    for (u32 word = 0; word < words; word += 1) {
      int q[4] = {0, 0, 0, 0};
      for (u32 lane = 0; lane < 4; lane += 1) {
        const u32 i = 4 * word + lane;
        q[lane] = i < p.features ? dynamic_step(s, p.q_max, values[i]) : 0;
      }
      x_q[row * words + word] = packed(q);
    }
  }
}
