// Sums of the integer GEMMs on f16 matrices, taken in parts that f32 holds: the parts are added in i32.

// The sums that the invocation stores: WORDS_PER_LANE of each matrix of a block.
var<private> totals: array<i32, FRAGS * WORDS_PER_LANE>;

// Adds matrix `frag` of each block to the totals.
fn add_part(place: Place, round: u32, frag: u32, part: FragSum) {
  workgroupBarrier();
  coopStoreT(part, &sums[(round + place.subgroup) % BLOCKS * FRAG_WORDS], FRAG);
  workgroupBarrier();
  let stored = place.invocation / LANES * FRAG_WORDS + place.invocation % LANES;
  for (var n = 0u; n < WORDS_PER_LANE; n += 1u) {
    totals[frag * WORDS_PER_LANE + n] += i32(sums[stored + n * LANES]);
  }
}
