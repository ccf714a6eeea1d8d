// rope_attention.wgsl for one query head a team: each workgroup has a head.

alias Of = f32;

// Feature d of the row's query.
fn load_query(row: u32, head: u32, d: u32) -> f32 {
  return qkv[row * params.stride + head * HEAD_DIM + d];
}

fn kv_head_of(head: u32) -> u32 {
  return head / (params.heads / params.kv_heads);
}

// Whether the workgroup appends the new key and value of its kv head.
fn appends(head: u32) -> bool {
  return head % (params.heads / params.kv_heads) == 0u;
}
