// What follows a sampled token, for every row t: tokens[t] = token[t], the input of the next step · row_info[t].position += 1 ·
// history[sequence, position % window] = token[t] with the new position (window 0: no history) ·
// ring[(step % ring_len) * rows + t] = token[t] · and once: state[0], the step, += 1
//
//   token     [rows]              u32
//   tokens    [rows]              u32
//   row_info  [rows]              vec2<u32> (sequence, position), a sequence once
//   history   [sequences, window] u32
//   ring      [ring_len, rows]    u32
//   state     [1]                 u32, the steps so far
//
// grid: (1, 1, 1), one workgroup for all rows.

const WORKGROUP: u32 = 256u;

struct Params {
  rows: u32,
  window: u32,
  ring_len: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> row_info: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> history: array<u32>;
@group(0) @binding(5) var<storage, read_write> ring: array<u32>;
@group(0) @binding(6) var<storage, read_write> state: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn advance(@builtin(local_invocation_index) lid: u32) {
  let step = state[0];
  // Every invocation has read the step before it changes.
  storageBarrier();
  if (lid == 0u) {
    state[0] = step + 1u;
  }
  let slot = step % params.ring_len;
  for (var row = lid; row < params.rows; row += WORKGROUP) {
    let sampled = token[row];
    let position = row_info[row].y + 1u;
    tokens[row] = sampled;
    row_info[row].y = position;
    if (params.window > 0u) {
      history[row_info[row].x * params.window + position % params.window] = sampled;
    }
    ring[slot * params.rows + row] = sampled;
  }
}
