// x_q = flatten_quantize(y), y = layer_norm(x): a normed row as the flat integers of a static scale
//
//   x       [rows, features]                  f32
//   affine  [2, features]                     f32, weight, then bias
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
@group(0) @binding(2) var<storage, read> affine: array<f32>;
@group(0) @binding(3) var<storage, read> map: array<u32>;
@group(0) @binding(4) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(256)
fn layer_norm_flat(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = workgroup.x * params.features;
  let row = moments(lane, start, params.features);
  let words = flat_words();
  for (var word = lane; word < words; word += LANES) {
    var q = vec4<i32>();
    for (var i = 0u; i < 4u; i += 1u) {
      let entry = flat_entry(word * 4u + i, params.features);
      let source = entry & SOURCE_MASK;
      let normed = (x[start + source] - row.mean) * row.inv;
      q[i] = flat_part(entry, fma(normed, affine[source], affine[params.features + source]));
    }
    x_q[workgroup.x * words + word] = pack4xI8(q);
  }
}
