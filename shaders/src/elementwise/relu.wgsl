// x[t, i] = max(x[t, i], 0), in place
//
//   x  [rows, features] f32
//
// grid: (ceil(features / 256), rows, 1), one invocation per element.

struct Params {
  rows: u32,
  features: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(256)
fn relu(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.features || id.y >= params.rows) {
    return;
  }
  let at = id.y * params.features + id.x;
  x[at] = relu_of(x[at]);
}
