// kv_append.wgsl over the pools of pools_f32.wgsl: the bits are copied.

const WORD_FEATURES: u32 = 1u;

fn word_of(feature: u32) -> u32 {
  return qkv[feature];
}

@compute @workgroup_size(WORKGROUP)
fn kv_append_f32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
