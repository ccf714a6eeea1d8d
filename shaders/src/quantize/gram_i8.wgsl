// The Gram matrix of gram.wgsl over packed INT8 rows: exact. Contract: gram.wgsl.
//
//   x  [rows, features / 4]  u32, four i8 each; features is a multiple of 4
//   h  [features, features]  i32
//
// 2^17 rows of products of -128 stay within 31 bits: over all dispatches that add to one h.

alias Value = vec4<i32>;
const ONE_HALF: bool = true;

@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> h: array<i32>;

fn mul_add(a: Value, b: Value, sum: Value) -> Value {
  return a * b + sum;
}

fn load_z(row: u32, quad: u32) -> Value {
  return unpack4xI8(x[row * (params.features / 4u) + quad]);
}

fn load_x(row: u32, quad: u32) -> Value {
  return load_z(row, quad);
}

@compute @workgroup_size(256)
fn gram_i8(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
