// What the integer GEMMs on cooperative matrices read: gemm_i8.wgsl and gemm_i4.wgsl have the shapes.

// Sixteen features of a row of x; of a row past the end, those of the last one, which are not stored; zeros past the end of a row.
fn load_x(row: u32, vec: u32) -> vec4<u32> {
  let row_vecs = params.in_words / 4u;
  let at = min(row, params.rows - 1u) * row_vecs + min(vec, row_vecs - 1u);
  return select(vec4<u32>(), x_q[at], vec < row_vecs);
}

// 32 features of an output. Past the end they are those of another one: either x is zero there, or nothing is stored.
fn load_w(out: u32, piece: u32) -> StoredWeights {
  return load_stored(min(out, params.out_features - 1u), min(piece, params.in_words / 8u - 1u));
}
