// A row of a table for each token.

struct EmbeddingParams {
  u32 rows, hidden, vocab, first_row, num_rows;
};

// Whether row `row` of y is this table's to write; `table_row` of it, or zeros.
FUNCTION bool finds(const EmbeddingParams& p, u32 token, bool& is_zero, u32& table_row) {
  is_zero = token >= p.vocab;
  table_row = token - p.first_row;
  return is_zero || (token >= p.first_row && table_row < p.num_rows);
}

KERNEL(embedding_f32) {
  const auto p = params_of<EmbeddingParams>(call);
  const u32* tokens = binding<u32>(call, 1);
  const float* table = binding<float>(call, 2);
  float* y = binding<float>(call, 3);
  for (u64 n = first(); n < (u64)p.rows * p.hidden; n += step()) {
    bool is_zero;
    u32 table_row;
    if (finds(p, tokens[n / p.hidden], is_zero, table_row)) {
      y[n] = is_zero ? 0.0f : table[(u64)table_row * padded(p.hidden) + n % p.hidden];
    }
  }
}

KERNEL(embedding_f16) {
  const auto p = params_of<EmbeddingParams>(call);
  const u32* tokens = binding<u32>(call, 1);
  const u32* table = binding<u32>(call, 2);
  float* y = binding<float>(call, 3);
  for (u64 n = first(); n < (u64)p.rows * p.hidden; n += step()) {
    bool is_zero;
    u32 table_row;
    if (finds(p, tokens[n / p.hidden], is_zero, table_row)) {
      y[n] = is_zero ? 0.0f : (float)half_at(table, (u64)table_row * padded(p.hidden) + n % p.hidden);
    }
  }
}

KERNEL(embedding_i8) {
  const auto p = params_of<EmbeddingParams>(call);
  const u32* tokens = binding<u32>(call, 1);
  const u32* table = binding<u32>(call, 2);
  const float* scales = binding<float>(call, 3);
  float* y = binding<float>(call, 4);
  for (u64 n = first(); n < (u64)p.rows * p.hidden; n += step()) {
    bool is_zero;
    u32 table_row;
    if (finds(p, tokens[n / p.hidden], is_zero, table_row)) {
      const u64 at = (u64)table_row * padded(p.hidden) + n % p.hidden;
      y[n] = is_zero ? 0.0f : scales[table_row] * (float)int8_at(table, at);
    }
  }
}
