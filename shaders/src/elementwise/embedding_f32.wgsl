// embedding.wgsl with
//
//   table  [num_rows, padded(hidden)] f32

@group(0) @binding(2) var<storage, read> table: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn load(row: u32, padded: u32, i: u32) -> f32 {
  return table[row * padded + i];
}

@compute @workgroup_size(256)
fn embedding_f32(@builtin(global_invocation_id) id: vec3<u32>) {
  run(id.y, id.x);
}
