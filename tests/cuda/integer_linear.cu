// Linears of integers, whatever the rows and the hardware that WGSL multiplies them with: one definition.

struct IntegerParams {
  u32 rows, in_words, out_features, first_out, out_stride, x_scale_stride, w_scale_stride, has_bias, accumulate;
};

// A linear's scales, then its bias, then the multipliers of its groups.
struct Aux {
  const u32* words;
  u32 out_features, w_scale_stride, has_bias, in_features, group_size;
};

FUNCTION float weight_scale(const Aux& aux, u32 out) {
  return float_of_bits(aux.words[aux.w_scale_stride ? out : 0]);
}

FUNCTION u32 scales(const Aux& aux) {
  return aux.w_scale_stride ? aux.out_features : 1;
}

FUNCTION float bias(const Aux& aux, u32 out) {
  return aux.has_bias ? float_of_bits(aux.words[scales(aux) + out]) : 0.0f;
}

// Of the group of feature `k`: 1 to 16, a nibble each, the rows in whole words.
FUNCTION int multiplier(const Aux& aux, u32 out, u32 k) {
  if (aux.group_size == 0) {
    return 1;
  }
  const u32 groups = (aux.in_features + aux.group_size - 1) / aux.group_size;
  const u32 row_words = (groups + 7) / 8;
  const u32 group = k / aux.group_size;
  const u32* row = aux.words + scales(aux) + (aux.has_bias ? aux.out_features : 0) + (u64)out * row_words;
  return (int)((row[group / 8] >> (4 * (group % 8))) & 15u) + 1;
}

// The integer weight of output `out` and feature `k`.
template <bool IS_INT4>
FUNCTION int integer_weight(const u32* w, const Aux& aux, u32 out, u32 k) {
  const u64 at = (u64)out * aux.in_features + k;
  return IS_INT4 ? int4_at(w, at) * multiplier(aux, out, k) : int8_at(w, at);
}

// What an accumulator becomes.
FUNCTION float scaled(const Aux& aux, u32 out, float x_scale, int acc) {
  return fmaf((float)acc, x_scale * weight_scale(aux, out), bias(aux, out));
}

template <bool IS_INT4>
FUNCTION void integer_linear(const Call& call) {
  const auto p = params_of<IntegerParams>(call);
  const u32* x_q = binding<u32>(call, 1);
  const float* x_scale = binding<float>(call, 2);
  const u32* w = binding<u32>(call, 3);
  u32* y = binding<u32>(call, 5);
  const u32 in_features = 4 * p.in_words;
  const Aux aux = {binding<u32>(call, 4), p.out_features, p.w_scale_stride, p.has_bias, in_features, call.group_size};
  for (u64 n = first(); n < (u64)p.rows * p.out_features; n += step()) {
    const u64 row = n / p.out_features;
    const u32 out = n % p.out_features;
    int acc = 0;
    for (u32 k = 0; k < in_features; k += 1) {
      acc += int8_at(x_q, row * in_features + k) * integer_weight<IS_INT4>(w, aux, out, k);
    }
    u32& target = y[row * p.out_stride + p.first_out + out];
    if (call.raw_accumulators) {
      target = (u32)acc;
      continue;
    }
    const float value = scaled(aux, out, x_scale[row * p.x_scale_stride], acc);
    const float before = p.accumulate ? float_of_bits(target) : 0.0f;
    target = float_bits(before + value);
  }
}

KERNEL(gemm_i8) { integer_linear<false>(call); }
KERNEL(gemm_i8_f32) { integer_linear<false>(call); }
KERNEL(gemm_i8_coop8) { integer_linear<false>(call); }
KERNEL(gemm_i8_coop16) { integer_linear<false>(call); }
KERNEL(gemm_i8_coop16_int8) { integer_linear<false>(call); }
KERNEL(gemm_i8_coop16_int8_few) { integer_linear<false>(call); }
KERNEL(gemv_i8) { integer_linear<false>(call); }
KERNEL(gemv_i8_subgroup) { integer_linear<false>(call); }
KERNEL(gemm_i4) { integer_linear<true>(call); }
KERNEL(gemm_i4_f32) { integer_linear<true>(call); }
KERNEL(gemm_i4_coop8) { integer_linear<true>(call); }
KERNEL(gemm_i4_coop16) { integer_linear<true>(call); }
KERNEL(gemm_i4_coop16_int8) { integer_linear<true>(call); }
KERNEL(gemm_i4_coop16_int8_few) { integer_linear<true>(call); }
KERNEL(gemv_i4) { integer_linear<true>(call); }
KERNEL(gemv_i4_subgroup) { integer_linear<true>(call); }
