// What gemm_coop16.wgsl reads of INT4 weights: pieces of 32 features, two vec4s of x, with the multiplier of their group.

const CHUNK_PIECES: u32 = CHUNK_VECS / 2u;
// Outputs that the workgroup loads at once.
const LOAD_OUTS: u32 = WORKGROUP / CHUNK_PIECES;

// Piece `piece` of a chunk of two outputs.
struct ChunkW {
  out_0: StoredWeights,
  out_1: StoredWeights,
}

fn load_chunk_w(out: u32, chunk: u32, piece: u32) -> ChunkW {
  let at = chunk * CHUNK_PIECES + piece;
  return ChunkW(load_w(out, at), load_w(out + LOAD_OUTS, at));
}

// Two of four features, (n - 8) * m of their nibbles n: 0x6400 with its low bits replaced by n is 1024 + n.
fn pair_of(nibbles: u32, m: vec2<f16>) -> vec2<f16> {
  let pair = as_halves((nibbles & 0x000f000fu) | 0x64006400u) - vec2<f16>(1032h);
  if (GROUP_SIZE == 0u) {
    return pair;
  }
  return pair * m;
}

// Four features, those of the low halves of a word's bytes, in quad_of's order.
fn quad_of_nibbles(word: u32, m: vec2<f16>) -> vec4<f16> {
  return vec4<f16>(pair_of(word, m), pair_of(word >> 8u, m));
}

fn stage_quads(to: u32, stored: StoredWeights, piece: u32, word: u32) {
  let m = vec2<f16>(f16(multiplier_of(stored, piece)));
  let shift = word % 2u * 4u;
  w_tile[to] = quad_of_nibbles(stored.words[word / 2u] >> shift, m);
  w_tile[to + 1u] = quad_of_nibbles(stored.words[2u + word / 2u] >> shift, m);
}

// The features of word `word` of each vec4 of x. A word of weights has eight, the first four in the low halves of its bytes.
fn stage_w(to: u32, w: ChunkW, chunk: u32, piece: u32, word: u32) {
  let at = chunk * CHUNK_PIECES + piece;
  stage_quads(to, w.out_0, at, word);
  stage_quads(to + LOAD_OUTS * STRIDE, w.out_1, at, word);
}
