// kv_append.wgsl with pools of f32: the bits are copied.

const FEATURES_PER_WORD: u32 = 1u;

fn word_of(index: u32) -> u32 {
  return qkv[index];
}

@compute @workgroup_size(64)
fn kv_append_f32(@builtin(global_invocation_id) id: vec3<u32>) {
  run(id.y, id.x);
}
