// Pools of i8 with a scale for each key and for each value: a block is [64, ceil(head_dim / 4)] u32, four i8 in each, zeros past
// head_dim; then [64] f32, the scales.

@group(0) @binding(4) var<storage, read> k_pool: array<u32>;
@group(0) @binding(5) var<storage, read> v_pool: array<u32>;

// Words of the integers of a key.
fn key_words() -> u32 {
  return (params.head_dim + 3u) / 4u;
}

// Index of the word with features 4 * quad .. 4 * quad + 4 of a key.
fn quad_at(block: u32, key: u32, quad: u32) -> u32 {
  return block * PAGE_SIZE * (key_words() + 1u) + key * key_words() + quad;
}

fn scale_at(block: u32, key: u32) -> u32 {
  return block * PAGE_SIZE * (key_words() + 1u) + PAGE_SIZE * key_words() + key;
}

// Features 4 * quad .. 4 * quad + 4 of a key, zeros past head_dim.
fn load_k_quad(block: u32, key: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(k_pool[quad_at(block, key, quad)]));
}

// A pair of features of a value.
fn load_v_pair(block: u32, key: u32, pair: u32) -> vec2<f32> {
  let quad = vec4<f32>(unpack4xI8(v_pool[quad_at(block, key, pair / 2u)]));
  return select(quad.xy, quad.zw, pair % 2u == 1u);
}

// Features 4 * quad .. 4 * quad + 4 of a value, zeros past head_dim.
fn load_v_quad(block: u32, key: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(v_pool[quad_at(block, key, quad)]));
}

fn k_scale(block: u32, key: u32) -> f32 {
  return bitcast<f32>(k_pool[scale_at(block, key)]);
}

fn v_scale(block: u32, key: u32) -> f32 {
  return bitcast<f32>(v_pool[scale_at(block, key)]);
}
