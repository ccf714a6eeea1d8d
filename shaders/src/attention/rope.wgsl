// Rotary position embedding of the first num_heads heads of a row (q and k), in place. With half = head_dim / 2 and
// (c, s) = rope_table[position of row t, i], for i < half:
//
//   y[t, h, i]        = x[t, h, i] * c        - x[t, h, i + half] * s
//   y[t, h, i + half] = x[t, h, i + half] * c + x[t, h, i] * s
//
//   row_info    [rows]            vec2<u32> (sequence, position)
//   rope_table  [positions, half] vec2<f32> (cos, sin)
//   qkv         [rows, stride]    f32
//
// grid: (ceil(num_heads * half / 256), rows, 1), one invocation per pair.

struct Params {
  rows: u32,
  num_heads: u32,
  head_dim: u32,
  stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;

@compute @workgroup_size(256)
fn rope(@builtin(global_invocation_id) id: vec3<u32>) {
  let half = params.head_dim / 2u;
  let row = id.y;
  if (id.x >= params.num_heads * half || row >= params.rows) {
    return;
  }
  let i = id.x % half;
  let low = row * params.stride + id.x / half * params.head_dim + i;
  let high = low + half;
  let turn = rope_table[row_info[row].y * half + i];
  let a = qkv[low];
  let b = qkv[high];
  qkv[low] = fma(a, turn.x, -(b * turn.y));
  qkv[high] = fma(b, turn.x, a * turn.y);
}
