// Weights of the INT8 GEMMs on cooperative matrices, 32 features at a time: gemm_i8.wgsl has the shapes.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// 32 features as i8.
struct Weights {
  first: vec4<u32>,
  second: vec4<u32>,
}

// They are stored so.
alias StoredWeights = Weights;

// Piece `piece` of 32 features of an output.
fn load_stored(out: u32, piece: u32) -> StoredWeights {
  let at = out * (params.in_words / 4u) + 2u * piece;
  return StoredWeights(w[at], w[at + 1u]);
}

// Features whose products, of at most 127 * 128, add up to 2^24 at most.
fn max_part_features() -> u32 {
  return 1024u;
}

fn weights_of(stored: StoredWeights, piece: u32) -> Weights {
  return stored;
}

// The same with zeros past the end of a row.
fn weights_or_zeros(stored: StoredWeights, piece: u32) -> Weights {
  let is_inside = piece < params.in_words / 8u;
  return Weights(select(vec4<u32>(), stored.first, is_inside), select(vec4<u32>(), stored.second, is_inside));
}
