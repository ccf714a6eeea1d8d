// merge.wgsl, written as output_float.wgsl says. Contract: merge.wgsl.

@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(128)
fn attention_merge(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup.x, workgroup.y, lane);
}
