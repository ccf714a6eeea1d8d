// attention_decode.wgsl over the pools of pools_f32.wgsl, written as output_flat.wgsl says. Contract: paged_attention.wgsl.

@group(0) @binding(6) var<storage, read> map: array<u32>;
@group(0) @binding(7) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(64)
fn attention_decode_f32_flat(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup.x, workgroup.y, lane);
}
