// Rows that are picked, added or put in place.

struct GatherParams {
  u32 n, features;
};

KERNEL(gather_rows) {
  const auto p = params_of<GatherParams>(call);
  const u32* index = binding<u32>(call, 1);
  const u32* x = binding<u32>(call, 2);
  u32* y = binding<u32>(call, 3);
  for (u64 n = first(); n < (u64)p.n * p.features; n += step()) {
    y[n] = x[(u64)index[n / p.features] * p.features + n % p.features];
  }
}

struct AddPositionsParams {
  u32 rows, hidden, offset, first_row, num_rows;
};

KERNEL(add_positions) {
  const auto p = params_of<AddPositionsParams>(call);
  const Row* row_info = binding<Row>(call, 1);
  const float* table = binding<float>(call, 2);
  float* x = binding<float>(call, 3);
  for (u64 n = first(); n < (u64)p.rows * p.hidden; n += step()) {
    const u32 whole_row = row_info[n / p.hidden].position + p.offset;
    if (whole_row >= p.first_row && whole_row - p.first_row < p.num_rows) {
      x[n] += table[(u64)(whole_row - p.first_row) * padded(p.hidden) + n % p.hidden];
    }
  }
}

struct StoredRowParams {
  u32 rows, features, token;
};

KERNEL(stored_row) {
  const auto p = params_of<StoredRowParams>(call);
  const u32* tokens = binding<u32>(call, 1);
  const Row* row_info = binding<Row>(call, 2);
  const u32* stored = binding<u32>(call, 3);
  u32* x = binding<u32>(call, 4);
  for (u64 n = first(); n < (u64)p.rows * p.features; n += step()) {
    const u64 row = n / p.features;
    if (tokens[row] == p.token && row_info[row].position == 0) {
      x[n] = stored[n % p.features];
    }
  }
}
