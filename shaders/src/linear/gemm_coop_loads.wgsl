// What the integer GEMMs on cooperative matrices read: gemm_i8.wgsl and gemm_i4.wgsl have the shapes.

// Sixteen features of a row of x; of a row past the end, those of the last one, which are not stored; some other past the end of a row.
fn load_any_x(row: u32, vec: u32) -> vec4<u32> {
  let row_vecs = params.in_words / 4u;
  return x_q[min(row, params.rows - 1u) * row_vecs + min(vec, row_vecs - 1u)];
}

// The same with zeros past the end of a row.
fn load_x(row: u32, vec: u32) -> vec4<u32> {
  return select(vec4<u32>(), load_any_x(row, vec), vec < params.in_words / 4u);
}

// 32 features of an output. Past the end they are those of another one: x is zero there, or `weights_or_zeros` makes them zeros, or nothing is stored.
fn load_w(out: u32, piece: u32) -> StoredWeights {
  return load_stored(min(out, params.out_features - 1u), min(piece, params.in_words / 8u - 1u));
}
