// The main loop of the integer GEMMs on INT8 cooperative matrices: 16 by 32 times 32 by 16 bytes, sums in i32.
//
// WGSL has no such matrices. What stands here are stand-ins of 16 by 16 f32, which are loaded from words as they are; the executor
// translates this text to SPIR-V and gives the matrices their types (engine/src/exec/gpu/spirv.rs). A sum is bits of an i32.

alias FragX = coop_mat16x16<f32, A>;
alias FragW = coop_mat16x16<f32, B>;
alias FragSum = coop_mat16x16<f32, C>;

// vec4s of sixteen features in a step, and in a row of a tile: one more, against bank conflicts.
const STEP_VECS: u32 = 8u;
const STRIDE: u32 = STEP_VECS + 1u;
// vec4s that one multiply-add takes.
const FRAG_VECS: u32 = 2u;
// Rows of x that the workgroup loads at once, and outputs, of which an invocation loads 32 features.
const LOAD_ROWS: u32 = WORKGROUP / STEP_VECS;
const STEP_PIECES: u32 = STEP_VECS / 2u;
const LOAD_OUTS: u32 = WORKGROUP / STEP_PIECES;
// STEPS_AHEAD, of the kernel: steps that are on their way. Two, or one whose x becomes zeros past the end of a row only when it is stored:
// a driver that does so early waits for it early.
const IS_LATE: bool = STEPS_AHEAD == 1u;

var<workgroup> x_tile: array<vec4<f32>, TILE * STRIDE>;
var<workgroup> w_tile: array<vec4<f32>, TILE * STRIDE>;

fn load_x_ahead(row: u32, vec: u32) -> vec4<u32> {
  if (IS_LATE) {
    return load_any_x(row, vec);
  }
  return load_x(row, vec);
}

fn stage_vec(to: u32, x: vec4<u32>, vec: u32) {
  x_tile[to] = bitcast<vec4<f32>>(select(x, vec4<u32>(), IS_LATE && vec >= params.in_words / 4u));
}

fn stage_piece(to: u32, weights: Weights) {
  w_tile[to] = bitcast<vec4<f32>>(weights.first);
  w_tile[to + 1u] = bitcast<vec4<f32>>(weights.second);
}

fn store_fragment(place: Place, round: u32, first_row: u32, first_out: u32, acc: FragSum) {
  workgroupBarrier();
  coopStoreT(acc, &sums[(round + place.subgroup) % BLOCKS * FRAG_WORDS], FRAG);
  workgroupBarrier();
  for (var n = 0u; n < WORDS_PER_LANE; n += 1u) {
    let i = n * LANES + place.invocation % LANES;
    let sum = bitcast<i32>(sums[place.invocation / LANES * FRAG_WORDS + i]);
    store_sum(place, round, first_row, first_out, i, sum);
  }
}

// The tile whose first row and output are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, place: Place) {
  let steps = (params.in_words / 4u + STEP_VECS - 1u) / STEP_VECS;
  let load_vec = place.invocation % STEP_VECS;
  let load_row = place.invocation / STEP_VECS;
  let to = load_row * STRIDE + load_vec;
  let row = first_row + load_row;
  let load_piece = place.invocation % STEP_PIECES;
  let load_out = place.invocation / STEP_PIECES;
  let w_to = load_out * STRIDE + 2u * load_piece;
  let out = first_out + load_out;
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let block_x = block / BLOCKS_ACROSS * BLOCK_ROWS * STRIDE;
    let block_w = block % BLOCKS_ACROSS * BLOCK_OUTS * STRIDE;
    var acc00 = FragSum();
    var acc10 = FragSum();
    var acc20 = FragSum();
    var acc30 = FragSum();
    var acc01 = FragSum();
    var acc11 = FragSum();
    var acc21 = FragSum();
    var acc31 = FragSum();
    var next_x0 = load_x_ahead(row + 0u * LOAD_ROWS, load_vec);
    var next_x1 = load_x_ahead(row + 1u * LOAD_ROWS, load_vec);
    var next_x2 = load_x_ahead(row + 2u * LOAD_ROWS, load_vec);
    var next_x3 = load_x_ahead(row + 3u * LOAD_ROWS, load_vec);
    var next_w0 = load_w(out, load_piece);
    var next_w1 = load_w(out + LOAD_OUTS, load_piece);
    var ahead_x0 = vec4<u32>();
    var ahead_x1 = vec4<u32>();
    var ahead_x2 = vec4<u32>();
    var ahead_x3 = vec4<u32>();
    var ahead_w0 = StoredWeights();
    var ahead_w1 = StoredWeights();
    if (STEPS_AHEAD > 1u) {
      ahead_x0 = load_x_ahead(row + 0u * LOAD_ROWS, load_vec + STEP_VECS);
      ahead_x1 = load_x_ahead(row + 1u * LOAD_ROWS, load_vec + STEP_VECS);
      ahead_x2 = load_x_ahead(row + 2u * LOAD_ROWS, load_vec + STEP_VECS);
      ahead_x3 = load_x_ahead(row + 3u * LOAD_ROWS, load_vec + STEP_VECS);
      ahead_w0 = load_w(out, load_piece + STEP_PIECES);
      ahead_w1 = load_w(out + LOAD_OUTS, load_piece + STEP_PIECES);
    }
    // Twice the same, written out, where two steps are on their way.
    for (var step = 0u; step < steps; step += STEPS_AHEAD) {
      {
        let vec = step * STEP_VECS + load_vec;
        let piece = step * STEP_PIECES + load_piece;
        workgroupBarrier();   // the tiles of the last step were read
        stage_vec(to + 0u * LOAD_ROWS * STRIDE, next_x0, vec);
        stage_vec(to + 1u * LOAD_ROWS * STRIDE, next_x1, vec);
        stage_vec(to + 2u * LOAD_ROWS * STRIDE, next_x2, vec);
        stage_vec(to + 3u * LOAD_ROWS * STRIDE, next_x3, vec);
        stage_piece(w_to, weights_of(next_w0, piece));
        stage_piece(w_to + LOAD_OUTS * STRIDE, weights_of(next_w1, piece));
        workgroupBarrier();
        next_x0 = load_x_ahead(row + 0u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        next_x1 = load_x_ahead(row + 1u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        next_x2 = load_x_ahead(row + 2u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        next_x3 = load_x_ahead(row + 3u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        next_w0 = load_w(out, piece + STEPS_AHEAD * STEP_PIECES);
        next_w1 = load_w(out + LOAD_OUTS, piece + STEPS_AHEAD * STEP_PIECES);
        for (var k = 0u; k < STEP_VECS; k += FRAG_VECS) {
          let x_at = block_x + k;
          let w_at = block_w + k;
          let x0 = coopLoadT<FragX>(&x_tile[x_at + 0u * FRAG * STRIDE], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + 1u * FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + 0u * FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + 1u * FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
      }
      if (STEPS_AHEAD > 1u) {
        if (step + 1u >= steps) {
          break;
        }
        let vec = (step + 1u) * STEP_VECS + load_vec;
        let piece = (step + 1u) * STEP_PIECES + load_piece;
        workgroupBarrier();   // the tiles of the last step were read
        stage_vec(to + 0u * LOAD_ROWS * STRIDE, ahead_x0, vec);
        stage_vec(to + 1u * LOAD_ROWS * STRIDE, ahead_x1, vec);
        stage_vec(to + 2u * LOAD_ROWS * STRIDE, ahead_x2, vec);
        stage_vec(to + 3u * LOAD_ROWS * STRIDE, ahead_x3, vec);
        stage_piece(w_to, weights_of(ahead_w0, piece));
        stage_piece(w_to + LOAD_OUTS * STRIDE, weights_of(ahead_w1, piece));
        workgroupBarrier();
        ahead_x0 = load_x_ahead(row + 0u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        ahead_x1 = load_x_ahead(row + 1u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        ahead_x2 = load_x_ahead(row + 2u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        ahead_x3 = load_x_ahead(row + 3u * LOAD_ROWS, vec + STEPS_AHEAD * STEP_VECS);
        ahead_w0 = load_w(out, piece + STEPS_AHEAD * STEP_PIECES);
        ahead_w1 = load_w(out + LOAD_OUTS, piece + STEPS_AHEAD * STEP_PIECES);
        for (var k = 0u; k < STEP_VECS; k += FRAG_VECS) {
          let x_at = block_x + k;
          let w_at = block_w + k;
          let x0 = coopLoadT<FragX>(&x_tile[x_at + 0u * FRAG * STRIDE], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + 1u * FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + 0u * FRAG * STRIDE], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + 1u * FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
        }
      }
    }
    store_fragment(place, round, first_row + 0u * FRAG, first_out + 0u * FRAG, acc00);
    store_fragment(place, round, first_row + 1u * FRAG, first_out + 0u * FRAG, acc10);
    store_fragment(place, round, first_row + 2u * FRAG, first_out + 0u * FRAG, acc20);
    store_fragment(place, round, first_row + 3u * FRAG, first_out + 0u * FRAG, acc30);
    store_fragment(place, round, first_row + 0u * FRAG, first_out + 1u * FRAG, acc01);
    store_fragment(place, round, first_row + 1u * FRAG, first_out + 1u * FRAG, acc11);
    store_fragment(place, round, first_row + 2u * FRAG, first_out + 1u * FRAG, acc21);
    store_fragment(place, round, first_row + 3u * FRAG, first_out + 1u * FRAG, acc31);
  }
}
