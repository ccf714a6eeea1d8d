// attention_decode.wgsl over the pools of pools_f32.wgsl. Contract: paged_attention.wgsl.

@group(0) @binding(4) var<storage, read> k_pool: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> v_pool: array<vec2<f32>>;

@compute @workgroup_size(64)
fn attention_decode_f32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup.x, workgroup.y, lane);
}
