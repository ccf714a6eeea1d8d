// y[t, i] = silu(x[t, i]) * x[t, features + i], silu(g) = g / (1 + exp(-g))
//
//   x  [rows, 2 * features] f32, gate then up in each row
//   y  [rows, features]     f32
//
// grid: (ceil(features / 256), rows, 1), one invocation per output.

struct Params {
  rows: u32,
  features: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn silu_mul(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.features || id.y >= params.rows) {
    return;
  }
  let row = id.y * 2u * params.features;
  let gate = x[row + id.x];
  let up = x[row + params.features + id.x];
  y[id.y * params.features + id.x] = silu_mul_of(gate, up);
}
