// x_q[t, i] = clamp(round(x[t, i] * inv_scale), -q_max, q_max), x_scale[t] = absmax(x[t, :]) / q_max: a scale per token
//
//   x        [rows, features]             f32, finite
//   x_q      [rows, padded(features) / 4] u32, four i8 each, zeros after the features
//   x_scale  [rows]                       f32
//
// inv_scale is q_max / absmax with 24 significant bits, truncated. The quotient comes from a long division of the
// mantissas: WGSL's own division may be wrong by 2.5 ulp, which would move ties. So integers and scales are equal on every
// adapter. A row with absmax < 2^-100 is a row of zeros with scale 0.
//
// grid: (rows, 1, 1), one workgroup per row.

const WORKGROUP: u32 = 256u;

struct Params {
  rows: u32,
  features: u32,
  q_max: u32,
  inv_q_max: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> x_q: array<u32>;
@group(0) @binding(3) var<storage, read_write> x_scale: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn quantize_dynamic(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let row = group.x * params.features;
  var own = 0u;
  for (var i = lid; i < params.features; i += WORKGROUP) {
    // Magnitudes order as their bits.
    own = max(own, bitcast<u32>(x[row + i]) & 0x7fffffffu);
  }
  let absmax = workgroup_max(lid, own);
  let zero = absmax < ABSMAX_MIN;
  if (lid == 0u) {
    x_scale[group.x] = select(bitcast<f32>(absmax) * params.inv_q_max, 0.0, zero);
  }
  var inv_scale = 0.0;
  if (!zero) {
    inv_scale = truncated_quotient(params.q_max, absmax);
  }
  let words = (params.features + 31u) / 32u * 8u;
  let q_max = f32(params.q_max);
  for (var word = lid; word < words; word += WORKGROUP) {
    var q = vec4<i32>();
    for (var lane = 0u; lane < 4u; lane += 1u) {
      let i = word * 4u + lane;
      if (i < params.features) {
        q[lane] = i32(clamp(round(x[row + i] * inv_scale), -q_max, q_max));
      }
    }
    x_q[group.x * words + word] = pack4xI8(q);
  }
}
