// A norm, flat integers of a static scale, and a linear of one row; and the first half of a gated MLP.

struct NormGemvParams {
  u32 in_features, in_words, out_features, first_out, w_scale_stride, has_bias, in_flat_features, in_q_max;
  float in_inv_scale, x_scale, eps;
  u32 span;
};

struct NormGateUpParams {
  u32 in_features, in_words, out_features, w_scale_stride, has_bias, in_flat_features, in_q_max;
  float in_inv_scale, x_scale, eps;
  u32 flat_features, q_max;
  float inv_scale;
};

// Output `out` of the linear over the normed and quantized row. Both kernels' parameters have what it needs under the same names.
template <bool IS_INT4, typename P>
FUNCTION float linear_of_norm(const Call& call, const P& p, double inverse, u32 out) {
  const float* x = binding<float>(call, 1);
  const float* weight = binding<float>(call, 2);
  const u32* w = binding<u32>(call, 3);
  const u32* in_map = binding<u32>(call, 5);
  const Aux aux = {binding<u32>(call, 4), p.out_features, p.w_scale_stride, p.has_bias, 4 * p.in_words, call.group_size};
  int acc = 0;
  for (u32 c = 0; c < p.in_flat_features; c += 1) {
    const u32 source = flat_source(in_map, p.in_features, c);
    const float value = rms_normed(inverse, x[source], weight[source]);
    const int q = flat_part(in_map, p.in_features, p.in_q_max, p.in_inv_scale, c, value);
    acc += q * integer_weight<IS_INT4>(w, aux, out, c);
  }
  return scaled(aux, out, p.x_scale, acc);
}

template <bool IS_INT4>
FUNCTION void norm_gemv(const Call& call) {
  const auto p = params_of<NormGemvParams>(call);
  float* y = binding<float>(call, 6);
  for (u64 out = first(); out < p.out_features; out += step()) {
    const double inverse = inverse_rms(binding<float>(call, 1), p.in_features, p.eps);
    y[p.first_out + out] = linear_of_norm<IS_INT4>(call, p, inverse, out);
  }
}

template <bool IS_INT4>
FUNCTION void norm_gate_up(const Call& call) {
  const auto p = params_of<NormGateUpParams>(call);
  const u32* map = binding<u32>(call, 6);
  u32* x_q = binding<u32>(call, 7);
  const u32 features = p.out_features / 2;
  const FlattenParams flattening = {1, features, p.flat_features, p.q_max, p.inv_scale};
  for (u64 word = first(); word < flat_words(p.flat_features); word += step()) {
    const double inverse = inverse_rms(binding<float>(call, 1), p.in_features, p.eps);
    const auto value_of = [&](u32 source) {
      const float gate = linear_of_norm<IS_INT4>(call, p, inverse, source);
      const float up = linear_of_norm<IS_INT4>(call, p, inverse, features + source);
      return silu_mul_of(gate, up);
    };
    x_q[word] = flat_word(flattening, map, word, value_of);
  }
}

KERNEL(norm_gemv_i8) { norm_gemv<false>(call); }
KERNEL(norm_gemv_i4) { norm_gemv<true>(call); }
KERNEL(norm_gate_up_i8) { norm_gate_up<false>(call); }
KERNEL(norm_gate_up_i4) { norm_gate_up<true>(call); }
