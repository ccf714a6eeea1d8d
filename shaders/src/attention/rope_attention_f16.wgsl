// rope_attention_whole.wgsl, written as output_float.wgsl says. Contract: rope_attention.wgsl, paged_attention.wgsl.

@group(0) @binding(7) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(TEAMS * TEAM)
fn rope_attention_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  run(workgroup.x, workgroup.y, lid);
}
