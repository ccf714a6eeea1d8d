// gemm_i8.wgsl, which has the formula and the shapes, on INT8 cooperative matrices: gemm_coop16_int8.wgsl.
//
// grid: (ceil(out_features / 128), ceil(rows / 128), 1), one workgroup per tile of 128 by 128.

enable wgpu_cooperative_matrix;

// Steps that are on their way, what was fastest on an H200.
const STEPS_AHEAD: u32 = 1u;

@compute @workgroup_size(WORKGROUP)
fn gemm_i8_coop16_int8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(workgroup.y * TILE, workgroup.x * TILE, Place(invocation, num_subgroups, subgroup));
}
