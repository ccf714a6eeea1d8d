// y[j, i] = x[index[j], i]
//
//   index  [n]              u32
//   x      [rows, features] u32, the bits of f32
//   y      [n, features]    u32
//
// grid: (ceil(features / 256), n, 1), one invocation per output.

struct Params {
  n: u32,
  features: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn gather_rows(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.features || id.y >= params.n) {
    return;
  }
  y[id.y * params.features + id.x] = x[index[id.y] * params.features + id.x];
}
