// The float linear of gemv.wgsl with weights of gemv_steps_f16.wgsl. Contract: float_linear.wgsl.

@compute @workgroup_size(256)
fn gemv_f16(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) num_workgroups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  run(workgroup, num_workgroups, lane);
}
