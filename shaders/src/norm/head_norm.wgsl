// For each head h of the heads + kv_heads first ones of a row, in place:
// qkv[t, h, i] = qkv[t, h, i] / sqrt(mean(qkv[t, h, :]^2) + eps) * weights[h < heads ? 0 : 1, i]
//
//   weights  [2, head_dim]  f32, that of the q heads, then that of the k heads
//   qkv      [rows, stride] f32, heads of head_dim features: q, k, and v which is left alone
//
// grid: (heads + kv_heads, rows, 1), one workgroup per head of a row.

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  stride: u32,
  eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;

@compute @workgroup_size(256)
fn head_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = workgroup.x;
  let start = workgroup.y * params.stride + head * params.head_dim;
  let weight_start = select(params.head_dim, 0u, head < params.heads);
  var sum = 0.0;
  for (var i = lane; i < params.head_dim; i += LANES) {
    let value = qkv[start + i];
    sum = fma(value, value, sum);
  }
  let mean = workgroup_sum(lane, sum) / f32(params.head_dim);
  let inv = inverseSqrt(mean + params.eps);
  for (var i = lane; i < params.head_dim; i += LANES) {
    qkv[start + i] = qkv[start + i] * inv * weights[weight_start + i];
  }
}
