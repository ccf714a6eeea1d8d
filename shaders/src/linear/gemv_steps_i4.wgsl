// K steps of the INT4 GEMVs by subgroups: gemv_i4.wgsl has the shapes. Weights stay offset binary, n = w + 8, in the products: the sum of
// a step is m * (sum of n * x - 8 * sum of x), and the sum of x serves every output. Integers, so the result is that of gemv_i4.wgsl.

const OFFSET: i32 = 8;
const ONES: u32 = 0x01010101u;

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// 32 features of a row of x: the integers, and their sum times OFFSET.
struct XStep {
  low: vec4<u32>,
  high: vec4<u32>,
  offset: i32,
}

// The weights of 32 features of an output, and their multiplier.
struct WStep {
  words: vec4<u32>,
  m: u32,
}

fn num_steps() -> u32 {
  return params.in_words / 8u;
}

fn x_step(row: u32, step: u32) -> XStep {
  let low = x_vec(row, 2u * step);
  let high = x_vec(row, 2u * step + 1u);
  return XStep(low, high, OFFSET * (dot16(low, vec4<u32>(ONES)) + dot16(high, vec4<u32>(ONES))));
}

fn w_step(out: u32, step: u32) -> WStep {
  return WStep(w[out * num_steps() + step], multiplier(out, step));
}

fn dot_step(x: XStep, w: WStep) -> i32 {
  let even = w.words & vec4<u32>(0x0f0f0f0fu);
  let odd = (w.words >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu);
  let sum = dot16(x.low, vec4<u32>(even.x, odd.x, even.y, odd.y)) + dot16(x.high, vec4<u32>(even.z, odd.z, even.w, odd.w));
  return i32(w.m) * (sum - x.offset);
}
