// Weights of the INT8 GEMMs on cooperative matrices, sixteen features at a time: gemm_i8.wgsl has the shapes.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// Sixteen features as they are stored.
alias StoredWeights = vec4<u32>;

fn load_stored(out: u32, vec: u32) -> StoredWeights {
  return w[out * (params.in_words / 4u) + vec];
}

// Features whose products, of at most 127 * 128, add up to 2^24 at most.
fn max_part_features() -> u32 {
  return 1024u;
}

// Four words of i8.
fn weights_of(stored: StoredWeights, vec: u32) -> vec4<u32> {
  return stored;
}
