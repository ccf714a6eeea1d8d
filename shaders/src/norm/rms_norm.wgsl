// y[t, i] = x[t, i] / sqrt(mean(x[t, :]^2) + eps) * weight[i]
//
//   x       [rows, hidden] f32
//   weight  [hidden]       f32
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
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn rms_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = workgroup.x * params.hidden;
  let inv = inverse_rms(lane, start, params.hidden);
  // Four at a time, so that no load waits for a store.
  let last = params.hidden - 1u;
  for (var i = lane; i < params.hidden; i += 4u * LANES) {
    let at = min(vec4<u32>(i, i + LANES, i + 2u * LANES, i + 3u * LANES), vec4<u32>(last));
    let values = vec4<f32>(x[start + at.x], x[start + at.y], x[start + at.z], x[start + at.w]);
    let weights = vec4<f32>(weight[at.x], weight[at.y], weight[at.z], weight[at.w]);
    let normed = values * inv * weights;
    y[start + i] = normed.x;
    if (i + LANES <= last) {
      y[start + at.y] = normed.y;
    }
    if (i + 2u * LANES <= last) {
      y[start + at.z] = normed.z;
    }
    if (i + 3u * LANES <= last) {
      y[start + at.w] = normed.w;
    }
  }
}
