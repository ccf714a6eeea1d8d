// What follows a sampled token, for every row t: tokens[t] = token[t], the input of the next step · row_info[t].position += 1 ·
// history[sequence, position % window] = token[t] with the new position
//
//   token     [rows]              u32
//   tokens    [rows]              u32
//   row_info  [rows]              vec2<u32> (sequence, position), a sequence once
//   history   [sequences, window] u32
//
// grid: (ceil(rows / 64), 1, 1), one invocation per row.

const WORKGROUP: u32 = 64u;

struct Params {
  rows: u32,
  window: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> row_info: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> history: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn advance(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x;
  if (row >= params.rows) {
    return;
  }
  let sampled = token[row];
  let position = row_info[row].y + 1u;
  tokens[row] = sampled;
  row_info[row].y = position;
  history[row_info[row].x * params.window + position % params.window] = sampled;
}
