// What the peaks of cooperative matrices share. With K features of a matrix, 16 or 32:
//
//   y[g, r, o] = loops * sum over m < 4, n < 2, k < K of x[m, r, k] * w[n, o, k]
//
//   x  [4, 16, K], then w [2, 16, K]: i8, four to a word
//   y  [groups, 16, 16] T
//
// grid: (groups, 1, 1), any number, each of which does the same: eight blocks, one a subgroup, of eight products in each loop. Of
// subgroups of other sizes than 32 there are more than blocks (then some compute a block again), or fewer (then there are more rounds).

struct Params {
  loops: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;

const WORKGROUP: u32 = 256u;
const BLOCKS: u32 = 8u;
const FRAG: u32 = 16u;
const FRAG_WORDS: u32 = FRAG * FRAG;
const X_FRAGS: u32 = 4u;
const FRAGS: u32 = X_FRAGS + 2u;

var<workgroup> tile: array<Features, FRAGS * FRAG * STRIDE>;
var<workgroup> sums: array<f32, BLOCKS * FRAG_WORDS>;

// What block 0 has in place of this invocation.
fn stored(slot: u32, invocation: u32, sum: FragSum) -> T {
  workgroupBarrier();
  coopStoreT(sum, &sums[slot * FRAG_WORDS], FRAG);
  workgroupBarrier();
  return sum_of(sums[invocation]);
}

fn run(group: u32, invocation: u32, num_subgroups: u32, subgroup: u32) {
  for (var i = invocation; i < FRAGS * FRAG * STRIDE; i += WORKGROUP) {
    tile[i] = features_of(i);
  }
  workgroupBarrier();
  const MATRIX: u32 = FRAG * STRIDE;
  let x0 = coopLoadT<FragX>(&tile[0], STRIDE);
  let x1 = coopLoadT<FragX>(&tile[MATRIX], STRIDE);
  let x2 = coopLoadT<FragX>(&tile[2u * MATRIX], STRIDE);
  let x3 = coopLoadT<FragX>(&tile[3u * MATRIX], STRIDE);
  let w0 = coopLoad<FragW>(&tile[4u * MATRIX], STRIDE);
  let w1 = coopLoad<FragW>(&tile[5u * MATRIX], STRIDE);
  for (var round = 0u; round < BLOCKS; round += num_subgroups) {
    var acc00 = FragSum();
    var acc10 = FragSum();
    var acc20 = FragSum();
    var acc30 = FragSum();
    var acc01 = FragSum();
    var acc11 = FragSum();
    var acc21 = FragSum();
    var acc31 = FragSum();
    for (var i = 0u; i < params.loops; i += 1u) {
      acc00 = coopMultiplyAdd(x0, w0, acc00);
      acc10 = coopMultiplyAdd(x1, w0, acc10);
      acc20 = coopMultiplyAdd(x2, w0, acc20);
      acc30 = coopMultiplyAdd(x3, w0, acc30);
      acc01 = coopMultiplyAdd(x0, w1, acc01);
      acc11 = coopMultiplyAdd(x1, w1, acc11);
      acc21 = coopMultiplyAdd(x2, w1, acc21);
      acc31 = coopMultiplyAdd(x3, w1, acc31);
    }
    let slot = (round + subgroup) % BLOCKS;
    var total = stored(slot, invocation, acc00);
    total += stored(slot, invocation, acc10);
    total += stored(slot, invocation, acc20);
    total += stored(slot, invocation, acc30);
    total += stored(slot, invocation, acc01);
    total += stored(slot, invocation, acc11);
    total += stored(slot, invocation, acc21);
    total += stored(slot, invocation, acc31);
    // Block 0 is in the first round, and what is left of it later is the same.
    y[group * FRAG_WORDS + invocation] = total;
  }
}
