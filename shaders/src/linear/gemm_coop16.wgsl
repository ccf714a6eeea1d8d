// The main loop of the integer GEMMs on cooperative matrices of f16 with sums in f32: 16 by 16 by 16.
//
// Integers up to 2^11 are exact in f16, their products are exact, and so is a sum in f32 while no partial sum is beyond 2^24. So the sum
// is taken in parts of at most max_part_features: what the weights allow. Parts are added in i32.

alias FragX = coop_mat16x16<f16, A>;
alias FragW = coop_mat16x16<f16, B>;
alias FragSum = coop_mat16x16<f32, C>;

// vec4s of sixteen features in a step, quads of four in it, and in a row of a tile: two more, against bank conflicts.
const STEP_VECS: u32 = 4u;
const STEP_QUADS: u32 = 4u * STEP_VECS;
const STRIDE: u32 = STEP_QUADS + 2u;
// Quads that one multiply-add takes.
const FRAG_QUADS: u32 = 4u;
// Rows of x that the workgroup loads at once; of all outputs each invocation loads 32 features.
const LOAD_ROWS: u32 = WORKGROUP / STEP_VECS;
const STEP_PIECES: u32 = STEP_VECS / 2u;
const FRAGS_DOWN: u32 = BLOCK_ROWS / FRAG;
const FRAGS: u32 = FRAGS_DOWN * BLOCK_OUTS / FRAG;

var<workgroup> x_tile: array<vec4<f16>, TILE * STRIDE>;
var<workgroup> w_tile: array<vec4<f16>, TILE * STRIDE>;

fn quad_of(word: u32) -> vec4<f16> {
  return vec4<f16>(unpack4xI8(word));
}

fn stage_x(to: u32, words: vec4<u32>) {
  x_tile[to] = quad_of(words.x);
  x_tile[to + 1u] = quad_of(words.y);
  x_tile[to + 2u] = quad_of(words.z);
  x_tile[to + 3u] = quad_of(words.w);
}

fn stage_w(to: u32, words: vec4<u32>) {
  w_tile[to] = quad_of(words.x);
  w_tile[to + 1u] = quad_of(words.y);
  w_tile[to + 2u] = quad_of(words.z);
  w_tile[to + 3u] = quad_of(words.w);
}

// The tile whose first row and output are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, place: Place) {
  let steps = (params.in_words / 4u + STEP_VECS - 1u) / STEP_VECS;
  let part_steps = max_part_features() / (4u * STEP_QUADS);
  let load_vec = place.invocation % STEP_VECS;
  let load_row = place.invocation / STEP_VECS;
  let to = load_row * STRIDE + load_vec * 4u;
  let row = first_row + load_row;
  let load_piece = place.invocation % STEP_PIECES;
  let load_out = place.invocation / STEP_PIECES;
  let w_to = load_out * STRIDE + load_piece * 8u;
  let out = first_out + load_out;
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let x_at = block / BLOCKS_ACROSS * BLOCK_ROWS * STRIDE;
    let w_at = block % BLOCKS_ACROSS * BLOCK_OUTS * STRIDE;
    totals = array<i32, FRAGS * WORDS_PER_LANE>();
    // Each step's tiles are on their way while those before are multiplied.
    var x_0 = load_x(row, load_vec);
    var x_1 = load_x(row + LOAD_ROWS, load_vec);
    var w_next = load_w(out, load_piece);
    for (var first = 0u; first < steps; first += part_steps) {
      var acc00 = FragSum();
      var acc10 = FragSum();
      var acc20 = FragSum();
      var acc30 = FragSum();
      var acc01 = FragSum();
      var acc11 = FragSum();
      var acc21 = FragSum();
      var acc31 = FragSum();
      let end = min(first + part_steps, steps);
      for (var step = first; step < end; step += 1u) {
        let vec = step * STEP_VECS + load_vec;
        let piece = step * STEP_PIECES + load_piece;
        workgroupBarrier();   // the tiles of the last step were read
        stage_x(to, x_0);
        stage_x(to + LOAD_ROWS * STRIDE, x_1);
        let weights = weights_of(w_next, piece);
        stage_w(w_to, weights.first);
        stage_w(w_to + 4u, weights.second);
        workgroupBarrier();
        x_0 = load_x(row, vec + STEP_VECS);
        x_1 = load_x(row + LOAD_ROWS, vec + STEP_VECS);
        w_next = load_w(out, piece + STEP_PIECES);
        // Four times the same, written out: compilers keep the matrices in registers then.
        {
          let x0 = coopLoadT<FragX>(&x_tile[x_at], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
        {
          let x0 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
        {
          let x0 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG_QUADS], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG_QUADS + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + 2u * FRAG_QUADS], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + 2u * FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
        {
          let x0 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG_QUADS], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG_QUADS + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG_QUADS + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG_QUADS + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + 3u * FRAG_QUADS], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + 3u * FRAG_QUADS + FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
      }
      add_part(place, round, 0u, acc00);
      add_part(place, round, 1u, acc10);
      add_part(place, round, 2u, acc20);
      add_part(place, round, 3u, acc30);
      add_part(place, round, 4u, acc01);
      add_part(place, round, 5u, acc11);
      add_part(place, round, 6u, acc21);
      add_part(place, round, 7u, acc31);
    }
    for (var frag = 0u; frag < FRAGS; frag += 1u) {
      let frag_row = first_row + frag % FRAGS_DOWN * FRAG;
      let frag_out = first_out + frag / FRAGS_DOWN * FRAG;
      for (var n = 0u; n < WORDS_PER_LANE; n += 1u) {
        let i = n * LANES + place.invocation % LANES;
        store_sum(place, round, frag_row, frag_out, i, totals[frag * WORDS_PER_LANE + n]);
      }
    }
  }
}
