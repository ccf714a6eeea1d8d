// 1 / sqrt(mean(x[start..start + len]^2) + eps). The kernel declares x and params.eps.

// Every invocation calls it; every invocation gets the value.
fn inverse_rms(lane: u32, start: u32, len: u32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < len; i += 4u * LANES) {
    // Four loads ahead of the chain, so that it does not wait for each.
    let a = x[start + i];
    let b = x[start + min(i + LANES, len - 1u)];
    let c = x[start + min(i + 2u * LANES, len - 1u)];
    let d = x[start + min(i + 3u * LANES, len - 1u)];
    sum = fma(a, a, sum);
    sum = select(sum, fma(b, b, sum), i + LANES < len);
    sum = select(sum, fma(c, c, sum), i + 2u * LANES < len);
    sum = select(sum, fma(d, d, sum), i + 3u * LANES < len);
  }
  let mean = workgroup_sum(lane, sum) / f32(len);
  return inverseSqrt(mean + params.eps);
}
