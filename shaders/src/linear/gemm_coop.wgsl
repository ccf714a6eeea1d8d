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
