// acc[t, o] = sum over k of x_q[t, k] * w[o, k] * m[o, group(k)], v = acc * (x_scale[t] * w_scale[o]) + bias[o],
// y[t, first_out + o] = v, or that plus v (params.accumulate): INT4 weights, many rows, without dot products of bytes
//
//   x_q      [rows, in_words]             u32, four i8 each
//   x_scale  [rows], or [1] with x_scale_stride 0  f32
//   w        [out_features, in_words / 2] u32, eight offset binary nibbles each: unpack_i4.wgsl
//   aux      f32 scales [out_features], or [1] with w_scale_stride 0; f32 bias [out_features] if has_bias;
//            with GROUP_SIZE 32, 64 or 128: u32 m - 1 of each group [out_features, ceil(groups / 8)], eight nibbles each
//   y        [rows, out_stride]           f32
//
// in_words is a multiple of 8 (rows are padded to 32 features with zeros). m is 1 without groups.
// The running sum has bytes of at most 8 * 16: |acc| <= 4 * in_words * 127 * 128 < 2^31, so at most 132_096 features.
//
// grid: (ceil(out_features / 64), ceil(rows / 64), 1), one workgroup per tile of 64 by 64: gemm_int_f32.wgsl.

@compute @workgroup_size(WORKGROUP)
fn gemm_i4_f32(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  gemm_tile_f32(group.y * TILE, group.x * TILE, lid);
}
