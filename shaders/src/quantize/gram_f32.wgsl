// The Gram matrix of gram.wgsl over f32 rows. Contract: gram.wgsl.
//
//   x  [rows, features]      f32
//   h  [features, features]  f32

alias Value = vec4<f32>;
const ONE_HALF: bool = true;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;

fn mul_add(a: Value, b: Value, sum: Value) -> Value {
  return fma(a, b, sum);
}

// Four features of a row, zeros past its end.
fn load_x(row: u32, quad: u32) -> Value {
  var values = Value();
  for (var lane = 0u; lane < 4u; lane += 1u) {
    let feature = quad * 4u + lane;
    if (feature < params.columns) {
      values[lane] = x[row * params.columns + feature];
    }
  }
  return values;
}

fn load_z(row: u32, quad: u32) -> Value {
  return load_x(row, quad);
}

@compute @workgroup_size(256)
fn gram_f32(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
