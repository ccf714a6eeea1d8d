// kv_append.wgsl over the pools of pools_i8.wgsl: what quantize_dynamic.wgsl does to a row of x is done to each key and each
// value, with q_max = 127. Features are finite.
//
// grid: (kv_heads, rows, 2), one workgroup per head

const Q_MAX: u32 = 127u;
const INV_Q_MAX: f32 = 1.0 / 127.0;

// Every invocation of the workgroup calls it.
fn write_key(place: Place, head: u32, lane: u32) {
  let first_feature = place.first_feature + head * params.head_dim;
  // An invocation has the four features of one word; those past head_dim are zeros.
  var x = vec4<f32>();
  for (var i = 0u; i < 4u; i += 1u) {
    let d = 4u * lane + i;
    if (d < params.head_dim) {
      x[i] = bitcast<f32>(qkv[first_feature + d]);
    }
  }
  // Magnitudes order as their bits.
  let magnitudes = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
  let own = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
  let absmax = workgroup_max(lane, own);
  var scale = 0.0;
  var inv_scale = 0.0;
  if (absmax >= ABSMAX_MIN) {
    scale = bitcast<f32>(absmax) * INV_Q_MAX;
    inv_scale = truncated_quotient(Q_MAX, absmax);
  }
  let words = (params.head_dim + 3u) / 4u;
  let start = (place.page * params.kv_heads + head) * PAGE_SIZE * (words + 1u);
  if (lane < words) {
    let q_max = vec4<f32>(f32(Q_MAX));
    let q = vec4<i32>(clamp(round(x * inv_scale), -q_max, q_max));
    write_word(place.of_v, start + place.key * words + lane, pack4xI8(q));
  }
  if (lane == 0u) {
    write_word(place.of_v, start + PAGE_SIZE * words + place.key, bitcast<u32>(scale));
  }
}

@compute @workgroup_size(WORKGROUP)
fn kv_append_i8(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  write_key(place_of(workgroup.y, workgroup.z == 1u), workgroup.x, lane);
}
