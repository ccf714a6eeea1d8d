// Pools of halves: a block is [64, head_dim / 2] u32, two halves in each.

@group(0) @binding(4) var<storage, read> k_pool: array<u32>;
@group(0) @binding(5) var<storage, read> v_pool: array<u32>;

// Index of a pair of features of a key.
fn pair_at(block: u32, key: u32, pair: u32) -> u32 {
  return (block * PAGE_SIZE + key) * (params.head_dim / 2u) + pair;
}

// Features 4 * quad .. 4 * quad + 4 of a key, zeros past head_dim.
fn load_k_quad(block: u32, key: u32, quad: u32) -> vec4<f32> {
  let at = pair_at(block, key, 2u * quad);
  let is_whole = 4u * quad + 2u < params.head_dim;
  let low = unpack2x16float(k_pool[at]);
  let high = unpack2x16float(k_pool[select(at, at + 1u, is_whole)]);
  return vec4<f32>(low, select(vec2<f32>(), high, is_whole));
}

// A pair of features of a value.
fn load_v_pair(block: u32, key: u32, pair: u32) -> vec2<f32> {
  return unpack2x16float(v_pool[pair_at(block, key, pair)]);
}

// Features 4 * quad .. 4 * quad + 4 of a value, zeros past head_dim.
fn load_v_quad(block: u32, key: u32, quad: u32) -> vec4<f32> {
  let at = pair_at(block, key, 2u * quad);
  let is_whole = 4u * quad + 2u < params.head_dim;
  let low = unpack2x16float(v_pool[at]);
  let high = unpack2x16float(v_pool[select(at, at + 1u, is_whole)]);
  return vec4<f32>(low, select(vec2<f32>(), high, is_whole));
}

fn k_scale(block: u32, key: u32) -> f32 {
  return 1.0;
}

fn v_scale(block: u32, key: u32) -> f32 {
  return 1.0;
}
