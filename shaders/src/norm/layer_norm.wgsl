// y[t, i] = (x[t, i] - mean) / sqrt(variance + eps) * affine[0, i] + affine[1, i], where
// mean = mean(x[t, :]), variance = mean((x[t, :] - mean)^2)
//
//   x       [rows, hidden] f32
//   affine  [2, hidden]    f32, weight, then bias
//   y       [rows, hidden] f32
//
// grid: (rows, 1, 1), one workgroup per row.

struct Params {
  rows: u32,
  hidden: u32,
  eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> affine: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn layer_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = workgroup.x * params.hidden;
  let row = moments(lane, start, params.hidden);
  for (var i = lane; i < params.hidden; i += LANES) {
    y[start + i] = fma((x[start + i] - row.mean) * row.inv, affine[i], affine[params.hidden + i]);
  }
}
