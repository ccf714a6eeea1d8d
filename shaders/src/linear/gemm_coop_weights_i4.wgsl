// Weights of the INT4 GEMMs on cooperative matrices, 32 features at a time: gemm_i4.wgsl has the shapes.

// 32, 64 or 128: the bytes are w * m, m in 1..=16 the multiplier of the group. 0: they are w.
override GROUP_SIZE: u32 = 0u;

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// 32 features as they are stored, and the word that has the multiplier of their group.
struct StoredWeights {
  words: vec4<u32>,
  multipliers: u32,
}

// 32 features as i8.
struct Weights {
  first: vec4<u32>,
  second: vec4<u32>,
}

// Pieces of 32 features in a group.
fn group_pieces() -> u32 {
  return max(GROUP_SIZE / 32u, 1u);
}

// Piece `piece` of 32 features of an output.
fn load_stored(out: u32, piece: u32) -> StoredWeights {
  let row_pieces = params.in_words / 8u;
  let words = w[out * row_pieces + piece];
  if (GROUP_SIZE == 0u) {
    return StoredWeights(words, 0u);
  }
  let groups = (row_pieces + group_pieces() - 1u) / group_pieces();
  let first = aux_bias() + select(0u, params.out_features, params.has_bias != 0u);
  return StoredWeights(words, aux[first + out * ((groups + 7u) / 8u) + piece / group_pieces() / 8u]);
}

// Features whose products add up to 2^24 at most: of 127 * 128 with groups, of 127 * 8 without.
fn max_part_features() -> u32 {
  return select(1024u, 16384u, GROUP_SIZE == 0u);
}

// Four nibbles n = w + 8, in the low halves of the bytes, to bytes of w * m: (n - 8) * m + 128 lies in 0..=240, no carry.
fn bytes_of(nibbles: u32, m: u32) -> u32 {
  return ((nibbles & 0x0f0f0f0fu) * m + (128u - 8u * m) * 0x01010101u) ^ 0x80808080u;
}

// Sixteen features of two words.
fn vec_of(words: vec2<u32>, m: u32) -> vec4<u32> {
  return vec4<u32>(bytes_of(words.x, m), bytes_of(words.x >> 4u, m), bytes_of(words.y, m), bytes_of(words.y >> 4u, m));
}

// The multiplier of piece `piece` of a row.
fn multiplier_of(stored: StoredWeights, piece: u32) -> u32 {
  if (GROUP_SIZE == 0u) {
    return 1u;
  }
  return ((stored.multipliers >> (piece / group_pieces() % 8u * 4u)) & 0xfu) + 1u;
}

fn weights_by(stored: StoredWeights, m: u32) -> Weights {
  return Weights(vec_of(stored.words.xy, m), vec_of(stored.words.zw, m));
}

fn weights_of(stored: StoredWeights, piece: u32) -> Weights {
  return weights_by(stored, multiplier_of(stored, piece));
}

// The same with zeros past the end of a row: zero times what was loaded.
fn weights_or_zeros(stored: StoredWeights, piece: u32) -> Weights {
  return weights_by(stored, select(0u, multiplier_of(stored, piece), piece < params.in_words / 8u));
}
