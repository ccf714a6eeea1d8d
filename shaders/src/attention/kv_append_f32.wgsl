// kv_append.wgsl over the pools of pools_f32.wgsl: the bits are copied.

fn write_key(of_v: bool, block: u32, key: u32, first_feature: u32, lane: u32) {
  for (var i = lane; i < params.head_dim; i += WORKGROUP) {
    write_word(of_v, (block * PAGE_SIZE + key) * params.head_dim + i, qkv[first_feature + i]);
  }
}

@compute @workgroup_size(WORKGROUP)
fn kv_append_f32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
