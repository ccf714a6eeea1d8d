// The main loop of the integer GEMMs on cooperative matrices of f16 with sums in f32: 8 by 8 by 8, as Metal has them.
//
// Exact as gemm_coop16.wgsl says. A workgroup computes 64 rows by 64 outputs in four blocks of 32 by 32, a subgroup each; of subgroups of
// other sizes than 32 there are more than blocks, or fewer. Tiles are of scalars: what naga writes for Metal loads matrices from nothing else.

alias FragX = coop_mat8x8<f16, A>;
alias FragW = coop_mat8x8<f16, B>;
alias FragSum = coop_mat8x8<f32, C>;

const WORKGROUP: u32 = 128u;
const TILE: u32 = 64u;
const BLOCK: u32 = 32u;
const BLOCKS_ACROSS: u32 = TILE / BLOCK;
const BLOCKS: u32 = BLOCKS_ACROSS * BLOCKS_ACROSS;
const FRAG: u32 = 8u;
const FRAG_WORDS: u32 = FRAG * FRAG;
// Matrices of a block in each direction.
const FRAGS_ACROSS: u32 = BLOCK / FRAG;
// Features of a step, and what a row of a tile takes: some more, against bank conflicts.
const STEP: u32 = 32u;
const STRIDE: u32 = STEP + 8u;
const STEP_VECS: u32 = STEP / 16u;
// Invocations that store what a block left in `sums`, and how many words of it each.
const LANES: u32 = WORKGROUP / BLOCKS;
const WORDS_PER_LANE: u32 = FRAG_WORDS / LANES;
const FRAGS: u32 = FRAGS_ACROSS * FRAGS_ACROSS;

var<workgroup> x_tile: array<f16, TILE * STRIDE>;
var<workgroup> w_tile: array<f16, TILE * STRIDE>;
// A matrix of each block.
var<workgroup> sums: array<f32, BLOCKS * FRAG_WORDS>;

// Where an invocation stands.
struct Place {
  invocation: u32,
  num_subgroups: u32,
  subgroup: u32,
}

fn spread_x(to: u32, words: vec4<u32>) {
  for (var i = 0u; i < 4u; i += 1u) {
    let quad = vec4<f16>(unpack4xI8(words[i]));
    x_tile[to + 4u * i] = quad.x;
    x_tile[to + 4u * i + 1u] = quad.y;
    x_tile[to + 4u * i + 2u] = quad.z;
    x_tile[to + 4u * i + 3u] = quad.w;
  }
}

fn spread_w(to: u32, words: vec4<u32>) {
  for (var i = 0u; i < 4u; i += 1u) {
    let quad = vec4<f16>(unpack4xI8(words[i]));
    w_tile[to + 4u * i] = quad.x;
    w_tile[to + 4u * i + 1u] = quad.y;
    w_tile[to + 4u * i + 2u] = quad.z;
    w_tile[to + 4u * i + 3u] = quad.w;
  }
}

// Stores the totals of matrix `frag` of the block that the invocation looks after. Blocks that were not computed in this round are left
// alone.
fn store_frag(place: Place, round: u32, first_row: u32, first_out: u32, frag: u32) {
  let block = place.invocation / LANES;
  let frag_row = first_row + block / BLOCKS_ACROSS * BLOCK + frag / FRAGS_ACROSS * FRAG;
  let frag_out = first_out + block % BLOCKS_ACROSS * BLOCK + frag % FRAGS_ACROSS * FRAG;
  for (var n = 0u; n < WORDS_PER_LANE; n += 1u) {
    let i = n * LANES + place.invocation % LANES;
    let row = frag_row + i / FRAG;
    let out = frag_out + i % FRAG;
    if (block - round < place.num_subgroups && row < params.rows && out < params.out_features) {
      store_accumulator(row, out, totals[frag * WORDS_PER_LANE + n]);
    }
  }
}

// The tile whose first row and output are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, place: Place) {
  let steps = params.in_words / 8u;
  let part_steps = max_part_features() / STEP;
  let load_vec = place.invocation % STEP_VECS;
  let load_row = place.invocation / STEP_VECS;
  let x_to = load_row * STRIDE + 16u * load_vec;
  let row = first_row + load_row;
  // Half of the invocations load weights.
  let load_out = place.invocation % TILE;
  let loads_w = place.invocation < TILE;
  let w_to = load_out * STRIDE;
  let out = first_out + load_out;
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let x_at = block / BLOCKS_ACROSS * BLOCK * STRIDE;
    let w_at = block % BLOCKS_ACROSS * BLOCK * STRIDE;
    totals = array<i32, FRAGS * WORDS_PER_LANE>();
    // Each step's tiles are on their way while those before are multiplied.
    var x_next = load_x(row, load_vec);
    var w_next = load_w(out, 0u);
    for (var first = 0u; first < steps; first += part_steps) {
      var acc00 = FragSum();
      var acc01 = FragSum();
      var acc02 = FragSum();
      var acc03 = FragSum();
      var acc10 = FragSum();
      var acc11 = FragSum();
      var acc12 = FragSum();
      var acc13 = FragSum();
      var acc20 = FragSum();
      var acc21 = FragSum();
      var acc22 = FragSum();
      var acc23 = FragSum();
      var acc30 = FragSum();
      var acc31 = FragSum();
      var acc32 = FragSum();
      var acc33 = FragSum();
      let end = min(first + part_steps, steps);
      for (var step = first; step < end; step += 1u) {
        workgroupBarrier();   // the tiles of the last step were read
        spread_x(x_to, x_next);
        if (loads_w) {
          let weights = weights_of(w_next, step);
          spread_w(w_to, weights.first);
          spread_w(w_to + 16u, weights.second);
        }
        workgroupBarrier();
        x_next = load_x(row, (step + 1u) * STEP_VECS + load_vec);
        if (loads_w) {
          w_next = load_w(out, step + 1u);
        }
        for (var k = 0u; k < STEP; k += FRAG) {
          let x0 = coopLoadT<FragX>(&x_tile[x_at + k], STRIDE);
          let x1 = coopLoadT<FragX>(&x_tile[x_at + k + FRAG * STRIDE], STRIDE);
          let x2 = coopLoadT<FragX>(&x_tile[x_at + k + 2u * FRAG * STRIDE], STRIDE);
          let x3 = coopLoadT<FragX>(&x_tile[x_at + k + 3u * FRAG * STRIDE], STRIDE);
          let w0 = coopLoad<FragW>(&w_tile[w_at + k], STRIDE);
          acc00 = coopMultiplyAdd(x0, w0, acc00);
          acc10 = coopMultiplyAdd(x1, w0, acc10);
          acc20 = coopMultiplyAdd(x2, w0, acc20);
          acc30 = coopMultiplyAdd(x3, w0, acc30);
          let w1 = coopLoad<FragW>(&w_tile[w_at + k + FRAG * STRIDE], STRIDE);
          acc01 = coopMultiplyAdd(x0, w1, acc01);
          acc11 = coopMultiplyAdd(x1, w1, acc11);
          acc21 = coopMultiplyAdd(x2, w1, acc21);
          acc31 = coopMultiplyAdd(x3, w1, acc31);
          let w2 = coopLoad<FragW>(&w_tile[w_at + k + 2u * FRAG * STRIDE], STRIDE);
          acc02 = coopMultiplyAdd(x0, w2, acc02);
          acc12 = coopMultiplyAdd(x1, w2, acc12);
          acc22 = coopMultiplyAdd(x2, w2, acc22);
          acc32 = coopMultiplyAdd(x3, w2, acc32);
          let w3 = coopLoad<FragW>(&w_tile[w_at + k + 3u * FRAG * STRIDE], STRIDE);
          acc03 = coopMultiplyAdd(x0, w3, acc03);
          acc13 = coopMultiplyAdd(x1, w3, acc13);
          acc23 = coopMultiplyAdd(x2, w3, acc23);
          acc33 = coopMultiplyAdd(x3, w3, acc33);
        }
      }
      add_part(place, round, 0u, acc00);
      add_part(place, round, 1u, acc01);
      add_part(place, round, 2u, acc02);
      add_part(place, round, 3u, acc03);
      add_part(place, round, 4u, acc10);
      add_part(place, round, 5u, acc11);
      add_part(place, round, 6u, acc12);
      add_part(place, round, 7u, acc13);
      add_part(place, round, 8u, acc20);
      add_part(place, round, 9u, acc21);
      add_part(place, round, 10u, acc22);
      add_part(place, round, 11u, acc23);
      add_part(place, round, 12u, acc30);
      add_part(place, round, 13u, acc31);
      add_part(place, round, 14u, acc32);
      add_part(place, round, 15u, acc33);
    }
    for (var frag = 0u; frag < FRAGS; frag += 1u) {
      store_frag(place, round, first_row, first_out, frag);
    }
  }
}
