// The one sum of a norm: each of 256 lanes brings its own sum over the features that it has; the lanes are added by pairwise
// halving in workgroup memory. No subgroup sums: their order is the driver's choice, and a row's bits would depend on it.

const LANES: u32 = 256u;

var<workgroup> lane_sums: array<f32, LANES>;

// Sum over the first 256 invocations of the workgroup. Every invocation calls it; every invocation gets the sum.
fn workgroup_sum(lane: u32, value: f32) -> f32 {
  if (lane < LANES) {
    lane_sums[lane] = value;
  }
  workgroupBarrier();
  for (var stride = LANES / 2u; stride > 0u; stride /= 2u) {
    if (lane < stride) {
      lane_sums[lane] = lane_sums[lane] + lane_sums[lane + stride];
    }
    workgroupBarrier();
  }
  return lane_sums[0];
}
