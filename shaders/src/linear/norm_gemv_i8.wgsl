// y = gemv_i8(x_q), x_q = flatten_quantize(rms_norm(x)): a norm, the flat integers of a static scale, and a linear of one row
//
//   x, weight, w, aux, in_map   norm_input.wgsl
//   y  [first_out + out_features ..]  f32, outputs first_out.. are written
//
// grid: (ceil(out_features / outputs), 1, 1), outputs = 512 / GROUP, one workgroup of 256 per so many outputs: norm_gemv.wgsl.

@compute @workgroup_size(WORKGROUP)
fn norm_gemv_i8(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) lanes: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  run(group.x, lid, place_of(subgroup, lanes, lane), lanes);
}
