// x[t, i] = x[t, i] + table[position of row t + offset, i]
//
//   row_info  [rows]                     vec2<u32> (sequence, position)
//   table     [num_rows, padded(hidden)] f32, rows first_row .. first_row + num_rows of the whole table
//   x         [rows, hidden]             f32, in place
//
// A row of x whose position lies in another part of the table is left alone.
//
// grid: (ceil(hidden / 256), rows, 1), one invocation per element.

struct Params {
  rows: u32,
  hidden: u32,
  offset: u32,
  first_row: u32,
  num_rows: u32,
}

const K_STEP: u32 = 32u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(256)
fn add_positions(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.hidden || id.y >= params.rows) {
    return;
  }
  let whole_row = row_info[id.y].y + params.offset;
  if (whole_row < params.first_row || whole_row - params.first_row >= params.num_rows) {
    return;
  }
  let padded = (params.hidden + K_STEP - 1u) / K_STEP * K_STEP;
  let at = id.y * params.hidden + id.x;
  x[at] = x[at] + table[(whole_row - params.first_row) * padded + id.x];
}
