// rope_attention_whole.wgsl, written as output_flat.wgsl says. Contract: rope_attention.wgsl, paged_attention.wgsl.

@group(0) @binding(7) var<storage, read> map: array<u32>;
@group(0) @binding(8) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(TEAMS * TEAM)
fn rope_attention_f16_flat(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  run(workgroup.x, workgroup.y, lid);
}
