// 1 / sqrt(mean(x[start..start + len]^2) + eps). The kernel declares x and params.eps.

// Every invocation calls it; every invocation gets the value.
fn inverse_rms(lane: u32, start: u32, len: u32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < len; i += LANES) {
    let value = x[start + i];
    sum = fma(value, value, sum);
  }
  let mean = workgroup_sum(lane, sum) / f32(len);
  return inverseSqrt(mean + params.eps);
}
