// The main loop of the integer GEMMs on cooperative matrices of f16 with sums in f32: 16 by 16 by 16.
//
// Integers up to 2^11 are exact in f16, their products are exact, and so is a sum in f32 while no partial sum is beyond 2^24. So the sum
// is taken in parts of at most max_part_features: what the weights allow. Parts are added in i32.
//
// Memory gives 128 features of a row at once, a whole line of a cache. They are multiplied in four steps of 32: a step takes a word, four
// features, of each vec4 of sixteen. There are two of each tile in workgroup memory, one read while the other is written; and the second
// half of a step is multiplied after the barrier, while the first matrices of the next one are loaded.

alias FragX = coop_mat16x16<f16, A>;
alias FragW = coop_mat16x16<f16, B>;
alias FragSum = coop_mat16x16<f32, C>;

// vec4s of sixteen features that are loaded at once; quads of four features in a step, one of each vec4, and in a row of a tile: two
// more, against bank conflicts.
const CHUNK_VECS: u32 = 8u;
const STEP_QUADS: u32 = CHUNK_VECS;
const STRIDE: u32 = STEP_QUADS + 2u;
// Quads that one multiply-add takes.
const FRAG_QUADS: u32 = 4u;
// Rows of x that the workgroup loads at once.
const LOAD_ROWS: u32 = WORKGROUP / CHUNK_VECS;
// Matrices of sums of a block.
const FRAGS: u32 = BLOCK_ROWS / FRAG * BLOCK_OUTS / FRAG;
// Where the second of both tiles begins.
const OTHER: u32 = TILE * STRIDE;

var<workgroup> x_tile: array<vec4<f16>, 2u * TILE * STRIDE>;
var<workgroup> w_tile: array<vec4<f16>, 2u * TILE * STRIDE>;

// What an invocation loads of a chunk of x; of weights it is ChunkW.
struct ChunkX {
  row_0: vec4<u32>,
  row_1: vec4<u32>,
  row_2: vec4<u32>,
  row_3: vec4<u32>,
}

// The two halves of a word as they are. No conversion is left of it: f32 has every f16.
fn as_halves(word: u32) -> vec2<f16> {
  return vec2<f16>(unpack2x16float(word));
}

// Four i8 in the order 0, 2, 1, 3: 0x6480 with its low byte replaced by that of b + 128 is 1152 + b.
fn quad_of(word: u32) -> vec4<f16> {
  let even = as_halves((word & 0x00ff00ffu) ^ 0x64806480u) - vec2<f16>(1152h);
  let odd = as_halves(((word >> 8u) & 0x00ff00ffu) ^ 0x64806480u) - vec2<f16>(1152h);
  return vec4<f16>(even, odd);
}

fn load_chunk_x(row: u32, vec: u32) -> ChunkX {
  return ChunkX(load_x(row, vec), load_x(row + LOAD_ROWS, vec), load_x(row + 2u * LOAD_ROWS, vec), load_x(row + 3u * LOAD_ROWS, vec));
}

// Word `word` of each vec4.
fn stage_x(to: u32, x: ChunkX, word: u32) {
  x_tile[to] = quad_of(x.row_0[word]);
  x_tile[to + LOAD_ROWS * STRIDE] = quad_of(x.row_1[word]);
  x_tile[to + 2u * LOAD_ROWS * STRIDE] = quad_of(x.row_2[word]);
  x_tile[to + 3u * LOAD_ROWS * STRIDE] = quad_of(x.row_3[word]);
}

// The rows of a tile that neighbours store to are four apart: other banks.
fn spread(row: u32) -> u32 {
  return row / 8u * 8u + row % 2u * 4u + row / 2u % 4u;
}

// The tile whose first row and output are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, place: Place) {
  let chunks = (params.in_words / 4u + CHUNK_VECS - 1u) / CHUNK_VECS;
  let part_chunks = max_part_features() / (16u * CHUNK_VECS);
  let load_vec = place.invocation % CHUNK_VECS;
  let load_row = spread(place.invocation / CHUNK_VECS);
  let x_to = load_row * STRIDE + load_vec;
  let row = first_row + load_row;
  let piece = place.invocation % CHUNK_PIECES;
  let load_out = spread(place.invocation / CHUNK_PIECES);
  let w_to = load_out * STRIDE + piece * (STEP_QUADS / CHUNK_PIECES);
  let out = first_out + load_out;
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let x_at = block / BLOCKS_ACROSS * BLOCK_ROWS * STRIDE;
    let w_at = block % BLOCKS_ACROSS * BLOCK_OUTS * STRIDE;
    totals = array<i32, FRAGS * WORDS_PER_LANE>();
    var x = load_chunk_x(row, load_vec);
    var w = load_chunk_w(out, 0u, piece);
    stage_x(x_to, x, 0u);
    stage_w(w_to, w, 0u, piece, 0u);
    var acc00 = FragSum();
    var acc10 = FragSum();
    var acc20 = FragSum();
    var acc30 = FragSum();
    var acc01 = FragSum();
    var acc11 = FragSum();
    var acc21 = FragSum();
    var acc31 = FragSum();
    // The second half of the last step: nothing yet.
    var late_x0 = FragX();
    var late_x1 = FragX();
    var late_x2 = FragX();
    var late_x3 = FragX();
    var late_w0 = FragW();
    var late_w1 = FragW();
    for (var first = 0u; ; first += part_chunks) {
      let end = min(first + part_chunks, chunks);
      for (var chunk = first; chunk < end; chunk += 1u) {
        // Four times the same, written out: compilers keep the matrices in registers then.
        {
          workgroupBarrier();   // this step's tiles are written, the others were read
          let x0 = coopLoadT<FragX>(&x_tile[x_at], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at], STRIDE);
          let w1 = coopLoad<FragW>(&w_tile[w_at + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(late_x0, late_w0, acc00);
          acc10 = coopMultiplyAdd(late_x1, late_w0, acc10);
          acc20 = coopMultiplyAdd(late_x2, late_w0, acc20);
          acc30 = coopMultiplyAdd(late_x3, late_w0, acc30);
          acc01 = coopMultiplyAdd(late_x0, late_w1, acc01);
          acc11 = coopMultiplyAdd(late_x1, late_w1, acc11);
          acc21 = coopMultiplyAdd(late_x2, late_w1, acc21);
          acc31 = coopMultiplyAdd(late_x3, late_w1, acc31);
          late_x0 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS], STRIDE);
          late_x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          late_x2 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          late_x3 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          late_w0 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS], STRIDE);
          late_w1 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
          stage_x(x_to + OTHER, x, 1u);
          stage_w(w_to + OTHER, w, chunk, piece, 1u);
        }
        {
          workgroupBarrier();
          let x0 = coopLoadT<FragX>(&x_tile[x_at + OTHER], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + OTHER + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + OTHER + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + OTHER], STRIDE);
          let w1 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(late_x0, late_w0, acc00);
          acc10 = coopMultiplyAdd(late_x1, late_w0, acc10);
          acc20 = coopMultiplyAdd(late_x2, late_w0, acc20);
          acc30 = coopMultiplyAdd(late_x3, late_w0, acc30);
          acc01 = coopMultiplyAdd(late_x0, late_w1, acc01);
          acc11 = coopMultiplyAdd(late_x1, late_w1, acc11);
          acc21 = coopMultiplyAdd(late_x2, late_w1, acc21);
          acc31 = coopMultiplyAdd(late_x3, late_w1, acc31);
          late_x0 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS], STRIDE);
          late_x1 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          late_x2 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          late_x3 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          late_w0 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG_QUADS], STRIDE);
          late_w1 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
          stage_x(x_to, x, 2u);
          stage_w(w_to, w, chunk, piece, 2u);
        }
        {
          workgroupBarrier();
          let x0 = coopLoadT<FragX>(&x_tile[x_at], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at], STRIDE);
          let w1 = coopLoad<FragW>(&w_tile[w_at + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(late_x0, late_w0, acc00);
          acc10 = coopMultiplyAdd(late_x1, late_w0, acc10);
          acc20 = coopMultiplyAdd(late_x2, late_w0, acc20);
          acc30 = coopMultiplyAdd(late_x3, late_w0, acc30);
          acc01 = coopMultiplyAdd(late_x0, late_w1, acc01);
          acc11 = coopMultiplyAdd(late_x1, late_w1, acc11);
          acc21 = coopMultiplyAdd(late_x2, late_w1, acc21);
          acc31 = coopMultiplyAdd(late_x3, late_w1, acc31);
          late_x0 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS], STRIDE);
          late_x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          late_x2 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          late_x3 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          late_w0 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS], STRIDE);
          late_w1 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
          stage_x(x_to + OTHER, x, 3u);
          stage_w(w_to + OTHER, w, chunk, piece, 3u);
          x = load_chunk_x(row, (chunk + 1u) * CHUNK_VECS + load_vec);
          w = load_chunk_w(out, chunk + 1u, piece);
        }
        {
          workgroupBarrier();
          let x0 = coopLoadT<FragX>(&x_tile[x_at + OTHER], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + OTHER + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + OTHER + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + OTHER], STRIDE);
          let w1 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(late_x0, late_w0, acc00);
          acc10 = coopMultiplyAdd(late_x1, late_w0, acc10);
          acc20 = coopMultiplyAdd(late_x2, late_w0, acc20);
          acc30 = coopMultiplyAdd(late_x3, late_w0, acc30);
          acc01 = coopMultiplyAdd(late_x0, late_w1, acc01);
          acc11 = coopMultiplyAdd(late_x1, late_w1, acc11);
          acc21 = coopMultiplyAdd(late_x2, late_w1, acc21);
          acc31 = coopMultiplyAdd(late_x3, late_w1, acc31);
          late_x0 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS], STRIDE);
          late_x1 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          late_x2 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          late_x3 = coopLoadT<FragX>(&x_tile[x_at + OTHER + FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          late_w0 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG_QUADS], STRIDE);
          late_w1 = coopLoad<FragW>(&w_tile[w_at + OTHER + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
          stage_x(x_to, x, 0u);
          stage_w(w_to, w, chunk + 1u, piece, 0u);
        }
      }
      acc00 = coopMultiplyAdd(late_x0, late_w0, acc00);
      acc10 = coopMultiplyAdd(late_x1, late_w0, acc10);
      acc20 = coopMultiplyAdd(late_x2, late_w0, acc20);
      acc30 = coopMultiplyAdd(late_x3, late_w0, acc30);
      acc01 = coopMultiplyAdd(late_x0, late_w1, acc01);
      acc11 = coopMultiplyAdd(late_x1, late_w1, acc11);
      acc21 = coopMultiplyAdd(late_x2, late_w1, acc21);
      acc31 = coopMultiplyAdd(late_x3, late_w1, acc31);
      if (end == chunks) {
        break;
      }
      add_part(place, round, 0u, acc00);
      add_part(place, round, 1u, acc10);
      add_part(place, round, 2u, acc20);
      add_part(place, round, 3u, acc30);
      add_part(place, round, 4u, acc01);
      add_part(place, round, 5u, acc11);
      add_part(place, round, 6u, acc21);
      add_part(place, round, 7u, acc31);
      acc00 = FragSum();
      acc10 = FragSum();
      acc20 = FragSum();
      acc30 = FragSum();
      acc01 = FragSum();
      acc11 = FragSum();
      acc21 = FragSum();
      acc31 = FragSum();
      late_x0 = FragX();
      late_x1 = FragX();
      late_x2 = FragX();
      late_x3 = FragX();
      late_w0 = FragW();
      late_w1 = FragW();
    }
    store_totals(place, round, 0u, first_row, first_out, acc00);
    store_totals(place, round, 1u, first_row + FRAG, first_out, acc10);
    store_totals(place, round, 2u, first_row + 2u * FRAG, first_out, acc20);
    store_totals(place, round, 3u, first_row + 3u * FRAG, first_out, acc30);
    store_totals(place, round, 4u, first_row, first_out + FRAG, acc01);
    store_totals(place, round, 5u, first_row + FRAG, first_out + FRAG, acc11);
    store_totals(place, round, 6u, first_row + 2u * FRAG, first_out + FRAG, acc21);
    store_totals(place, round, 7u, first_row + 3u * FRAG, first_out + FRAG, acc31);
  }
}

// Adds the last part of matrix `frag` of each block, and stores the totals. The row and the output are the first ones of the first block.
fn store_totals(place: Place, round: u32, frag: u32, first_row: u32, first_out: u32, part: FragSum) {
  add_part(place, round, frag, part);
  for (var n = 0u; n < WORDS_PER_LANE; n += 1u) {
    let i = n * LANES + place.invocation % LANES;
    store_sum(place, round, first_row, first_out, i, totals[frag * WORDS_PER_LANE + n]);
  }
}
