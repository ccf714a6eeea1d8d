// Weights of the INT4 GEMMs on cooperative matrices, sixteen features at a time: gemm_i4.wgsl has the shapes.

// 32, 64 or 128: the bytes are w * m, m in 1..=16 the multiplier of the group. 0: they are w.
override GROUP_SIZE: u32 = 0u;

@group(0) @binding(3) var<storage, read> w: array<vec2<u32>>;

// Sixteen features as they are stored, and the word that has the multiplier of their group.
struct StoredWeights {
  words: vec2<u32>,
  multipliers: u32,
}

// vec4s of sixteen features in a group.
fn group_vecs() -> u32 {
  return max(GROUP_SIZE / 16u, 1u);
}

fn load_stored(out: u32, vec: u32) -> StoredWeights {
  let row_vecs = params.in_words / 4u;
  let words = w[out * row_vecs + vec];
  if (GROUP_SIZE == 0u) {
    return StoredWeights(words, 0u);
  }
  let groups = (row_vecs + group_vecs() - 1u) / group_vecs();
  let first = aux_bias() + select(0u, params.out_features, params.has_bias != 0u);
  return StoredWeights(words, aux[first + out * ((groups + 7u) / 8u) + vec / group_vecs() / 8u]);
}

// Features whose products add up to 2^24 at most: of 127 * 128 with groups, of 127 * 8 without.
fn max_part_features() -> u32 {
  return select(1024u, 16384u, GROUP_SIZE == 0u);
}

// Four nibbles n = w + 8, in the low halves of the bytes, to bytes of w * m: (n - 8) * m + 128 lies in 0..=240, no carry.
fn bytes_of(nibbles: u32, m: u32) -> u32 {
  return ((nibbles & 0x0f0f0f0fu) * m + (128u - 8u * m) * 0x01010101u) ^ 0x80808080u;
}

// Four words of i8.
fn weights_of(stored: StoredWeights, vec: u32) -> vec4<u32> {
  var m = 1u;
  if (GROUP_SIZE != 0u) {
    m = ((stored.multipliers >> (vec / group_vecs() % 8u * 4u)) & 0xfu) + 1u;
  }
  return vec4<u32>(
    bytes_of(stored.words.x, m),
    bytes_of(stored.words.x >> 4u, m),
    bytes_of(stored.words.y, m),
    bytes_of(stored.words.y >> 4u, m),
  );
}
