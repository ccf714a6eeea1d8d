// The matrix of gram.wgsl between packed INT8 rows and f32 rows. Contract: gram.wgsl.
//
//   z  [rows, features / 4]  u32, four i8 each; features is a multiple of 4
//   x  [rows, columns]       f32
//   h  [features, columns]   f32

alias Value = vec4<f32>;
const ONE_HALF: bool = false;

@group(0) @binding(1) var<storage, read> z: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;

fn mul_add(a: Value, b: Value, sum: Value) -> Value {
  return fma(a, b, sum);
}

fn load_z(row: u32, quad: u32) -> Value {
  return Value(unpack4xI8(z[row * (params.features / 4u) + quad]));
}

// Four columns of a row, zeros past its end.
fn load_x(row: u32, quad: u32) -> Value {
  var values = Value();
  for (var lane = 0u; lane < 4u; lane += 1u) {
    let column = quad * 4u + lane;
    if (column < params.columns) {
      values[lane] = x[row * params.columns + column];
    }
  }
  return values;
}

@compute @workgroup_size(256)
fn gram_cross(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup, lane);
}
