// gemm_i4.wgsl, which has the formula and the shapes, on f16 cooperative matrices: gemm_coop8.wgsl.
//
// grid: (ceil(out_features / 64), ceil(rows / 64), 1), one workgroup per tile of 64 by 64.

enable f16;
enable wgpu_cooperative_matrix;

@compute @workgroup_size(WORKGROUP)
fn gemm_i4_coop8(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(workgroup.y * TILE, workgroup.x * TILE, Place(invocation, num_subgroups, subgroup));
}
