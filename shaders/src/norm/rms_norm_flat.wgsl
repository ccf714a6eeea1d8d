// x_q = flatten_quantize(y), y = rms_norm(x): a normed row as the flat integers of a static scale
//
//   x       [rows, features]                  f32
//   weight  [features]                        f32
//   map     [flat_features]                   u32, see flat_part.wgsl
//   x_q     [rows, padded(flat_features) / 4] u32, four i8 each
//
// grid: (rows, 1, 1), one workgroup per row.

struct Params {
  rows: u32,
  features: u32,
  eps: f32,
  flat_features: u32,
  q_max: u32,
  inv_scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> map: array<u32>;
@group(0) @binding(4) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(256)
fn rms_norm_flat(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = workgroup.x * params.features;
  let inv = inverse_rms(lane, start, params.features);
  let words = flat_words();
  for (var word = lane; word < words; word += LANES) {
    let entries = flat_entries(word, params.features);
    let sources = entries & vec4<u32>(SOURCE_MASK);
    let x_0 = x[start + sources.x] * inv * weight[sources.x];
    let x_1 = x[start + sources.y] * inv * weight[sources.y];
    let x_2 = x[start + sources.z] * inv * weight[sources.z];
    let x_3 = x[start + sources.w] * inv * weight[sources.w];
    let q = vec4<i32>(flat_part(entries.x, x_0), flat_part(entries.y, x_1), flat_part(entries.z, x_2), flat_part(entries.w, x_3));
    x_q[workgroup.x * words + word] = pack4xI8(q);
  }
}
