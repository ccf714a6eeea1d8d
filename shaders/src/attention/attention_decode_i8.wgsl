// attention_decode.wgsl over the pools of pools_i8.wgsl, written as output_float.wgsl says. Contract: paged_attention.wgsl.

@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn attention_decode_i8(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup.x, workgroup.y, lane);
}
