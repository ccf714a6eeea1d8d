// The float linear of gemm.wgsl with weights of weights_f16.wgsl. Contract: float_linear.wgsl.

@compute @workgroup_size(256)
fn gemm_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
