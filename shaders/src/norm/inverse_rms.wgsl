// 1 / sqrt(mean(x[start..start + len]^2) + eps). The kernel declares x and params.eps.
//
// A lane has the features 4 * lane .. 4 * lane + 4, then those 4 * LANES after them, and so on.

// Four features from i, zeros past the end, which change no sum. All are loaded, so that no load waits for the one before.
fn load_quad(start: u32, i: u32, len: u32) -> vec4<f32> {
  let last = len - 1u;
  let values = vec4<f32>(
    x[start + min(i, last)],
    x[start + min(i + 1u, last)],
    x[start + min(i + 2u, last)],
    x[start + min(i + 3u, last)],
  );
  return select(vec4<f32>(), values, vec4<u32>(i, i + 1u, i + 2u, i + 3u) < vec4<u32>(len));
}

// Four quads of a lane.
struct Quads {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

fn quads_of_lane(start: u32, i: u32, len: u32) -> Quads {
  return Quads(
    load_quad(start, i, len),
    load_quad(start, i + 4u * LANES, len),
    load_quad(start, i + 8u * LANES, len),
    load_quad(start, i + 12u * LANES, len),
  );
}

// The chain of squares.
fn add_squares(sum: f32, values: vec4<f32>) -> f32 {
  return fma(values.w, values.w, fma(values.z, values.z, fma(values.y, values.y, fma(values.x, values.x, sum))));
}

// Every invocation calls it; every invocation gets the value.
fn inverse_rms(lane: u32, start: u32, len: u32) -> f32 {
  var sum = 0.0;
  for (var i = 4u * lane; i < len; i += 16u * LANES) {
    let quads = quads_of_lane(start, i, len);
    sum = add_squares(add_squares(add_squares(add_squares(sum, quads.a), quads.b), quads.c), quads.d);
  }
  let mean = workgroup_sum(lane, sum) / f32(len);
  return inverseSqrt(mean + params.eps);
}
