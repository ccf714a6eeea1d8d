// gemm_i8.wgsl, which has the formula and the shapes, for few rows on INT8 cooperative matrices: gemm_coop16_int8_few.wgsl.
//
// grid: (ceil(rows / (16 * ROW_FRAGS)), ceil(out_features / 32), 1), one workgroup per so many rows and outputs.

enable wgpu_cooperative_matrix;

@compute @workgroup_size(WORKGROUP)
fn gemm_i8_coop16_int8_few(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(workgroup.x * FRAG * ROW_FRAGS, workgroup.y * OUTS, invocation, subgroup);
}
