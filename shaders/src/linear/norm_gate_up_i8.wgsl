// x_q' = flatten_quantize(silu_mul(y)), y = gemv_i8(x_q), x_q = flatten_quantize(rms_norm(x)): the first half of a gated MLP for one row
//
//   x, weight, w, aux, in_map  norm_input.wgsl; w has the gate rows, then as many up rows
//   map  [flat_features + tiles + 1]       u32: the map of ../quantize/flat_part.wgsl, then the runs of norm_gate_up.wgsl
//   x_q  [padded(flat_features) / 4] u32, four i8 each
//
// grid: (out_features / 128, 1, 1), one workgroup of 256 per 64 channels: norm_gate_up.wgsl.

@compute @workgroup_size(WORKGROUP)
fn norm_gate_up_i8(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) lanes: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  run(group.x, lid, place_of(subgroup, lanes, lane), lanes);
}
