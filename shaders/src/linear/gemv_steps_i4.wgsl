// K steps of the INT4 GEMVs by subgroups: gemv_i4.wgsl has the shapes. The bytes of a product are 16 times a weight, so the sum of a step
// is 16 times its own: |sum| <= 32 * 127 * 128.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

// 32 features of a row of x.
struct XStep {
  low: vec4<u32>,
  high: vec4<u32>,
}

// The weights of 32 features of an output, and their multiplier.
struct WStep {
  words: vec4<u32>,
  m: u32,
}

fn num_steps() -> u32 {
  return in_words() / 8u;
}

fn x_step(row: u32, step: u32) -> XStep {
  return XStep(x_vec(row, 2u * step), x_vec(row, 2u * step + 1u));
}

fn w_step(out: u32, step: u32) -> WStep {
  return WStep(w[out * num_steps() + step], multiplier(out, step));
}

fn dot_step(x: XStep, w: WStep) -> i32 {
  // Bytes of 16 times a weight, signed.
  let signed = w.words ^ vec4<u32>(0x88888888u);
  let even = (signed << vec4<u32>(4u)) & vec4<u32>(0xf0f0f0f0u);
  let odd = signed & vec4<u32>(0xf0f0f0f0u);
  let sum = dot16(x.low, vec4<u32>(even.x, odd.x, even.y, odd.y)) + dot16(x.high, vec4<u32>(even.z, odd.z, even.w, odd.w));
  return i32(w.m) * (sum >> 4u);
}
