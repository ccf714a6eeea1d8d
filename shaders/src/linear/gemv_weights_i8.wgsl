// Weights of the INT8 GEMVs, sixteen features at a time: gemv_i8.wgsl has the shapes.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

fn weight_vecs() -> u32 {
  return params.in_words / 4u;
}

fn dot_vec(row: u32, out: u32, vec: u32) -> i32 {
  return dot16(x_q[row * weight_vecs() + vec], w[out * weight_vecs() + vec]);
}

fn finish(acc: i32) -> i32 {
  return acc;
}
