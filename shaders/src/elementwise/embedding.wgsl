// y[t, i] = table[tokens[t], i]
//
//   tokens  [rows]                     u32
//   table   [num_rows, padded(hidden)] rows first_row .. first_row + num_rows of the whole table of vocab rows
//   y       [rows, hidden]             f32
//
// A row of y whose token lies in another part of the table is left alone; one whose token is >= vocab becomes zeros.
// What follows is shared by embedding_f32, embedding_f16 and embedding_i8, which differ in `load`.
//
// grid: (ceil(hidden / 256), rows, 1), one invocation per output.

struct Params {
  rows: u32,
  hidden: u32,
  vocab: u32,
  first_row: u32,
  num_rows: u32,
}

const K_STEP: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;

fn run(row: u32, i: u32) {
  if (row >= params.rows || i >= params.hidden) {
    return;
  }
  let token = tokens[row];
  let table_row = token - params.first_row;
  if (token >= params.vocab) {
    y[row * params.hidden + i] = 0.0;
  } else if (token >= params.first_row && table_row < params.num_rows) {
    let padded = (params.hidden + K_STEP - 1u) / K_STEP * K_STEP;
    y[row * params.hidden + i] = load(table_row, padded, i);
  }
}
