// kv_append.wgsl over the pools of pools_f16.wgsl: each value rounded to the nearest half, ties to even.

fn write_key(of_v: bool, block: u32, key: u32, first_feature: u32, lane: u32) {
  let words = params.head_dim / 2u;
  for (var i = lane; i < words; i += WORKGROUP) {
    let feature = first_feature + 2u * i;
    let word = half_bits(qkv[feature]) | (half_bits(qkv[feature + 1u]) << 16u);
    write_word(of_v, (block * PAGE_SIZE + key) * words + i, word);
  }
}

@compute @workgroup_size(WORKGROUP)
fn kv_append_f16(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
