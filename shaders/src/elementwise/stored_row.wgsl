// x[r] = stored where row r is the token `token` at position 0: what a model computes there is known
//
//   tokens    [rows]          u32
//   row_info  [rows]          vec2<u32>: sequence, position
//   stored    [features]      u32, the bits of f32
//   x         [rows, features] u32
//
// grid: (ceil(features / 256), rows, 1), one invocation per element.

struct Params {
  rows: u32,
  features: u32,
  token: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> stored: array<u32>;
@group(0) @binding(4) var<storage, read_write> x: array<u32>;

@compute @workgroup_size(256)
fn stored_row(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.features || id.y >= params.rows) {
    return;
  }
  if (tokens[id.y] == params.token && row_info[id.y].y == 0u) {
    x[id.y * params.features + id.x] = stored[id.x];
  }
}
