// Pools of f32: k_pool, v_pool [pages, kv_heads, 64, head_dim / 2] vec2<f32>.

// A pair of features.
fn load_k(pair: u32) -> vec2<f32> {
  return k_pool[pair];
}

fn load_v(pair: u32) -> vec2<f32> {
  return v_pool[pair];
}
