// What the integer GEMMs on cooperative matrices share: the tile of a workgroup, and what becomes of its sums.
//
// A workgroup computes 128 rows by 128 outputs in eight blocks of 64 by 32, a subgroup each. Of subgroups of other sizes than 32
// there are more than blocks (then some compute a block again), or fewer (then there are more rounds).

const WORKGROUP: u32 = 256u;
const TILE: u32 = 128u;
const BLOCK_ROWS: u32 = 64u;
const BLOCK_OUTS: u32 = 32u;
const BLOCKS_ACROSS: u32 = TILE / BLOCK_OUTS;
const BLOCKS: u32 = TILE / BLOCK_ROWS * BLOCKS_ACROSS;
// Rows and columns of a matrix of sums.
const FRAG: u32 = 16u;
const FRAG_WORDS: u32 = FRAG * FRAG;
// Invocations that store what a block left in `sums`, and how many words of it each.
const LANES: u32 = WORKGROUP / BLOCKS;
const WORDS_PER_LANE: u32 = FRAG_WORDS / LANES;

// A matrix of each block.
var<workgroup> sums: array<f32, BLOCKS * FRAG_WORDS>;

// Where an invocation stands.
struct Place {
  invocation: u32,
  num_subgroups: u32,
  subgroup: u32,
}

// Sixteen features of a row of x; of a row past the end, those of the last one, which are not stored; zeros past the end of a row.
fn load_x(row: u32, vec: u32) -> vec4<u32> {
  let row_vecs = params.in_words / 4u;
  let at = min(row, params.rows - 1u) * row_vecs + min(vec, row_vecs - 1u);
  return select(vec4<u32>(), x_q[at], vec < row_vecs);
}

// 32 features of an output. Past the end they are those of another one: either x is zero there, or nothing is stored.
fn load_w(out: u32, piece: u32) -> StoredWeights {
  return load_stored(min(out, params.out_features - 1u), min(piece, params.in_words / 8u - 1u));
}

// Stores a word of `sums`: word `i` of matrix (row_frag, out_frag) of the block that the invocation looks after. Blocks that were not
// computed in this round are left alone.
fn store_sum(place: Place, round: u32, first_row: u32, first_out: u32, i: u32, sum: i32) {
  let block = place.invocation / LANES;
  let row = first_row + block / BLOCKS_ACROSS * BLOCK_ROWS + i / FRAG;
  let out = first_out + block % BLOCKS_ACROSS * BLOCK_OUTS + i % FRAG;
  if (block - round < place.num_subgroups && row < params.rows && out < params.out_features) {
    store_accumulator(row, out, sum);
  }
}
