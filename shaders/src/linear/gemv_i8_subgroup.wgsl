// gemv_i8.wgsl, which has the formula and the shapes, with sums over subgroups: gemv_int_subgroup.wgsl.
//
// grid: (ceil(rows / ROWS), ceil(out_features / outputs), 1), one workgroup of 256 per so many outputs of ROWS rows:
// 256 / GROUP of one row, 512 / GROUP of several.

@compute @workgroup_size(WORKGROUP)
fn gemv_i8_subgroup(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) lanes: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  gemv_outputs_by_subgroup(group.x * ROWS, group.y * outputs_of_workgroup(), place_of(subgroup, lanes, lane), lanes);
}
