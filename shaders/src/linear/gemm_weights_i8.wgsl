// What the integer GEMMs without matrices take of INT8 weights, in the layout of gemm_i8.wgsl.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

fn load_w(out: u32, vec: u32) -> vec4<u32> {
  return w[out * (params.in_words / 4u) + vec];
}

fn finish(acc: i32) -> i32 {
  return acc;
}
