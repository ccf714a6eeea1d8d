// What gemm_coop16.wgsl reads of INT8 weights: pieces of sixteen features, as of x.

const CHUNK_PIECES: u32 = CHUNK_VECS;
// Outputs that the workgroup loads at once.
const LOAD_OUTS: u32 = WORKGROUP / CHUNK_PIECES;

// Piece `piece` of a chunk of four outputs.
struct ChunkW {
  out_0: vec4<u32>,
  out_1: vec4<u32>,
  out_2: vec4<u32>,
  out_3: vec4<u32>,
}

// Past the end they are other weights: either x is zero there, or nothing is stored.
fn load_piece(out: u32, vec: u32) -> vec4<u32> {
  let row_vecs = params.in_words / 4u;
  return w[min(out, params.out_features - 1u) * row_vecs + min(vec, row_vecs - 1u)];
}

fn load_chunk_w(out: u32, chunk: u32, piece: u32) -> ChunkW {
  let vec = chunk * CHUNK_PIECES + piece;
  return ChunkW(load_piece(out, vec), load_piece(out + LOAD_OUTS, vec), load_piece(out + 2u * LOAD_OUTS, vec), load_piece(out + 3u * LOAD_OUTS, vec));
}

// Word `word` of each vec4.
fn stage_w(to: u32, w: ChunkW, chunk: u32, piece: u32, word: u32) {
  w_tile[to] = quad_of(w.out_0[word]);
  w_tile[to + LOAD_OUTS * STRIDE] = quad_of(w.out_1[word]);
  w_tile[to + 2u * LOAD_OUTS * STRIDE] = quad_of(w.out_2[word]);
  w_tile[to + 3u * LOAD_OUTS * STRIDE] = quad_of(w.out_3[word]);
}
