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

// Features i .. i + 4, zeros past the end. All are loaded, so that no load waits for the one before.
fn four_features(row: u32, i: u32) -> vec4<f32> {
  let last = params.features - 1u;
  let values = vec4<f32>(
    x[row + min(i, last)],
    x[row + min(i + 1u, last)],
    x[row + min(i + 2u, last)],
    x[row + min(i + 3u, last)],
  );
  return select(vec4<f32>(), values, vec4<u32>(i, i + 1u, i + 2u, i + 3u) < vec4<u32>(params.features));
}

// Magnitudes order as their bits.
fn magnitude(values: vec4<f32>) -> u32 {
  let bits = bitcast<vec4<u32>>(values) & vec4<u32>(0x7fffffffu);
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn store_quantized(first_word: u32, word: u32, values: vec4<f32>, inv_scale: f32) {
  let q_max = vec4<f32>(f32(params.q_max));
  if (word < (params.features + 31u) / 32u * 8u) {
    x_q[first_word + word] = pack4xI8(vec4<i32>(clamp(round(values * inv_scale), -q_max, q_max)));
  }
}

@compute @workgroup_size(WORKGROUP)
fn quantize_dynamic(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let row = group.x * params.features;
  // The first words of an invocation stay at hand.
  let a = four_features(row, 4u * lid);
  let b = four_features(row, 4u * (lid + WORKGROUP));
  let c = four_features(row, 4u * (lid + 2u * WORKGROUP));
  let d = four_features(row, 4u * (lid + 3u * WORKGROUP));
  var own = max(max(magnitude(a), magnitude(b)), max(magnitude(c), magnitude(d)));
  for (var i = 4u * (lid + 4u * WORKGROUP); i < params.features; i += 4u * WORKGROUP) {
    own = max(own, magnitude(four_features(row, i)));
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
  let first_word = group.x * words;
  store_quantized(first_word, lid, a, inv_scale);
  store_quantized(first_word, lid + WORKGROUP, b, inv_scale);
  store_quantized(first_word, lid + 2u * WORKGROUP, c, inv_scale);
  store_quantized(first_word, lid + 3u * WORKGROUP, d, inv_scale);
  for (var word = lid + 4u * WORKGROUP; word < words; word += WORKGROUP) {
    store_quantized(first_word, word, four_features(row, 4u * word), inv_scale);
  }
}
