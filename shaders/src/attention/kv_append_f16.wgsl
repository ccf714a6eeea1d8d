// kv_append.wgsl over the pools of pools_f16.wgsl: each value rounded to the nearest half, ties to even.

const WORD_FEATURES: u32 = 2u;

fn word_of(feature: u32) -> u32 {
  return half_bits(qkv[feature]) | (half_bits(qkv[feature + 1u]) << 16u);
}

@compute @workgroup_size(WORKGROUP)
fn kv_append_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
