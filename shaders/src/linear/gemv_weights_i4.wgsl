// Weights of the INT4 GEMVs, a K step at a time: gemv_i4.wgsl has the shapes.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

fn weight_vecs() -> u32 {
  return params.in_words / 8u;
}

// A vec4 of weights is a K step of 32 features: two vec4s of x_q.
fn dot_vec(row: u32, out: u32, vec: u32) -> i32 {
  let words = w[out * weight_vecs() + vec];
  let m = multiplier(out, vec);
  let x_vec = (row * weight_vecs() + vec) * 2u;
  return dot16(x_q[x_vec], vec4<u32>(unpack(words.x, m), unpack(words.y, m)))
    + dot16(x_q[x_vec + 1u], vec4<u32>(unpack(words.z, m), unpack(words.w, m)));
}
