// embedding.wgsl with
//
//   table  [num_rows, padded(hidden) / 2] u32, two halves per word

@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn load(row: u32, padded: u32, i: u32) -> f32 {
  return unpack2x16float(table[row * (padded / 2u) + i / 2u])[i % 2u];
}

@compute @workgroup_size(256)
fn embedding_f16(@builtin(global_invocation_id) id: vec3<u32>) {
  run(id.y, id.x);
}
