// attention_prefill.wgsl over the pools of pools_f16.wgsl, written as output_float.wgsl says. Contract: paged_attention.wgsl.

@group(0) @binding(7) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn attention_prefill_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
  run(workgroup.x, workgroup.y, invocation);
}
