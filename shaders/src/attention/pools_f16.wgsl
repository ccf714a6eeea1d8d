// Pools of halves: k_pool, v_pool [pages, kv_heads, 64, head_dim / 2] u32, two per word.

// A pair of features.
fn load_k(pair: u32) -> vec2<f32> {
  return unpack2x16float(k_pool[pair]);
}

fn load_v(pair: u32) -> vec2<f32> {
  return unpack2x16float(v_pool[pair]);
}
