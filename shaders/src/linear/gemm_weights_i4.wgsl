// What the integer GEMMs without matrices take of INT4 weights, in the layout of gemm_i4.wgsl.

@group(0) @binding(3) var<storage, read> w: array<vec2<u32>>;

fn load_w(out: u32, vec: u32) -> vec4<u32> {
  let words = w[out * (params.in_words / 4u) + vec];
  let m = multiplier(out, vec / 2u);
  return vec4<u32>(unpack(words.x, m), unpack(words.y, m));
}
