// Mean of x[start..start + len] and 1 / sqrt(variance + eps). The kernel declares x and params.eps.

struct Moments {
  mean: f32,
  inv: f32,
}

// Every invocation calls it; every invocation gets the values.
fn moments(lane: u32, start: u32, len: u32) -> Moments {
  var sum = 0.0;
  for (var i = lane; i < len; i += LANES) {
    sum += x[start + i];
  }
  let mean = workgroup_sum(lane, sum) / f32(len);
  // Every lane has taken the first sum before the second one is written over it.
  workgroupBarrier();
  var squares = 0.0;
  for (var i = lane; i < len; i += LANES) {
    let value = x[start + i] - mean;
    squares = fma(value, value, squares);
  }
  let variance = workgroup_sum(lane, squares) / f32(len);
  return Moments(mean, inverseSqrt(variance + params.eps));
}
