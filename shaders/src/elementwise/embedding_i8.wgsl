// embedding.wgsl, times scales[token], with
//
//   table   [num_rows, padded(hidden) / 4] u32, four i8 per word
//   scales  [num_rows]                     f32

@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn load(row: u32, padded: u32, i: u32) -> f32 {
  let word = bitcast<i32>(table[row * (padded / 4u) + i / 4u]);
  return scales[row] * f32(extractBits(word, 8u * (i % 4u), 8u));
}

@compute @workgroup_size(256)
fn embedding_i8(@builtin(global_invocation_id) id: vec3<u32>) {
  run(id.y, id.x);
}
