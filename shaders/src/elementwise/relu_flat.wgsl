// x_q = flatten_quantize(y), y = relu(x): ReLU's output as the flat integers of a static scale
//
//   x    [rows, features]                  f32
//   map  [flat_features]                   u32, see flat_part.wgsl
//   x_q  [rows, padded(flat_features) / 4] u32, four i8 each
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

@compute @workgroup_size(WORKGROUP)
fn relu_flat(@builtin(global_invocation_id) id: vec3<u32>) {
  let words = flat_words();
  if (id.x >= words || id.y >= params.rows) {
    return;
  }
  let row = id.y * params.features;
  var q = vec4<i32>();
  for (var lane = 0u; lane < 4u; lane += 1u) {
    let entry = flat_entry(id.x * 4u + lane, params.features);
    q[lane] = flat_part(entry, relu_of(x[row + (entry & SOURCE_MASK)]));
  }
  x_q[id.y * words + id.x] = pack4xI8(q);
}
