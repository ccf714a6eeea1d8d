// gemv_i8.wgsl, which has the formula and the shapes, with sums over subgroups: gemv_int_subgroup.wgsl.
//
// grid: (ceil(out_features / 16), ceil(rows / ROWS), 1), one workgroup per 16 outputs of ROWS rows.

@compute @workgroup_size(WORKGROUP)
fn gemv_i8_subgroup(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) lanes: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  gemv_outputs_by_subgroup(group.y * ROWS, group.x * OUTPUTS, Place(num_subgroups, subgroup, lanes, lane));
}
