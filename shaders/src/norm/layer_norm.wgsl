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
  var sum = 0.0;
  for (var i = lane; i < params.hidden; i += LANES) {
    sum += x[start + i];
  }
  let mean = workgroup_sum(lane, sum) / f32(params.hidden);
  // Every lane has taken the first sum before the second one is written over it.
  workgroupBarrier();
  var squares = 0.0;
  for (var i = lane; i < params.hidden; i += LANES) {
    let value = x[start + i] - mean;
    squares = fma(value, value, squares);
  }
  let variance = workgroup_sum(lane, squares) / f32(params.hidden);
  let inv = inverseSqrt(variance + params.eps);
  for (var i = lane; i < params.hidden; i += LANES) {
    y[start + i] = fma((x[start + i] - mean) * inv, affine[i], affine[params.hidden + i]);
  }
}
