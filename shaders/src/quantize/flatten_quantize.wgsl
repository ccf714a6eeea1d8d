// x_q[t, c] = sign(q) * clamp(|q| - part(c) * q_max, 0, q_max), q = round(clamp(x[t, j] * inv_scale, -n(j) * q_max, n(j) * q_max)),
// j = source(c): a static scale per tensor, large channels flattened into n(j) parts
//
//   x    [rows, features]                  f32, finite
//   map  [flat_features]                   u32: n(j) >= 1 for j < features; from there on source | part << 24 of the extra channels
//   x_q  [rows, padded(flat_features) / 4] u32, four i8 each: part 0 of every channel in order, the extra parts, zeros
//
// The parts of a channel sum to q. n(j) * q_max < 2^24, so every value is an exact f32.
//
// grid: (ceil(words of a row / 64), rows, 1), one invocation per word.

const WORKGROUP: u32 = 64u;

struct Params {
  rows: u32,
  features: u32,
  flat_features: u32,
  q_max: u32,
  inv_scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> map: array<u32>;
@group(0) @binding(3) var<storage, read_write> x_q: array<u32>;

fn flat_value(row: u32, channel: u32) -> i32 {
  if (channel >= params.flat_features) {
    return 0;
  }
  var source = channel;
  var part = 0u;
  if (channel >= params.features) {
    source = map[channel] & 0xffffffu;
    part = map[channel] >> 24u;
  }
  let limit = f32(map[source] * params.q_max);
  let q = i32(round(clamp(x[row * params.features + source] * params.inv_scale, -limit, limit)));
  let q_max = i32(params.q_max);
  return sign(q) * clamp(abs(q) - i32(part) * q_max, 0, q_max);
}

@compute @workgroup_size(WORKGROUP)
fn flatten_quantize(@builtin(global_invocation_id) id: vec3<u32>) {
  let words = (params.flat_features + 31u) / 32u * 8u;
  if (id.x >= words || id.y >= params.rows) {
    return;
  }
  var q = vec4<i32>();
  for (var lane = 0u; lane < 4u; lane += 1u) {
    q[lane] = flat_value(id.y, id.x * 4u + lane);
  }
  x_q[id.y * words + id.x] = pack4xI8(q);
}
