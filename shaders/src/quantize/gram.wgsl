// h[a, b] += sum over rows of z[r, a] * x[r, b]: what a linear's calibration inputs add to its Hessian (GPTQ, arXiv 2210.17323),
// where z and x are the same; and what they have to do with other values of the same rows.
//
//   z  [rows, features]     gram_f32.wgsl, gram_i8.wgsl: x itself; gram_cross.wgsl
//   x  [rows, columns]
//   h  [features, columns]  f32 or i32; of x with itself only the tiles of 64 by 64 on and above the diagonal
//
// One order of sums: an ascending chain over the rows from 0, then h + chain.
// What follows is shared. Left to the kernels: Value, ONE_HALF, load_z, load_x, mul_add, h.
//
// grid: (ceil(columns / 64), ceil(features / 64), 1), workgroups of 256; an invocation computes 4 by 4.

struct Params {
  rows: u32,
  features: u32,
  columns: u32,
}

const TILE_QUADS: u32 = 16u;
// Rows in workgroup memory at a time.
const STEP_ROWS: u32 = 16u;

@group(0) @binding(0) var<uniform> params: Params;

var<workgroup> a_tile: array<Value, STEP_ROWS * TILE_QUADS>;
var<workgroup> b_tile: array<Value, STEP_ROWS * TILE_QUADS>;

fn z_or_zeros(row: u32, quad: u32) -> Value {
  if (row < params.rows && quad * 4u < params.features) {
    return load_z(row, quad);
  }
  return Value();
}

fn x_or_zeros(row: u32, quad: u32) -> Value {
  if (row < params.rows && quad * 4u < params.columns) {
    return load_x(row, quad);
  }
  return Value();
}

fn add_to_row(a: u32, b: u32, sum: Value) {
  for (var lane = 0u; lane < 4u; lane += 1u) {
    if (a < params.features && b + lane < params.columns) {
      let index = a * params.columns + b + lane;
      h[index] = h[index] + sum[lane];
    }
  }
}

// Every invocation of the workgroup calls it.
fn run(workgroup: vec3<u32>, lane: u32) {
  if (ONE_HALF && workgroup.y > workgroup.x) {
    return;
  }
  let a_quad = lane / TILE_QUADS;
  let b_quad = lane % TILE_QUADS;
  var sum_0 = Value();
  var sum_1 = Value();
  var sum_2 = Value();
  var sum_3 = Value();
  for (var first = 0u; first < params.rows; first += STEP_ROWS) {
    workgroupBarrier();   // the tiles of the last step were read
    let row = first + a_quad;
    a_tile[lane] = z_or_zeros(row, workgroup.y * TILE_QUADS + b_quad);
    b_tile[lane] = x_or_zeros(row, workgroup.x * TILE_QUADS + b_quad);
    workgroupBarrier();
    for (var r = 0u; r < STEP_ROWS; r += 1u) {
      let a = a_tile[r * TILE_QUADS + a_quad];
      let b = b_tile[r * TILE_QUADS + b_quad];
      sum_0 = mul_add(Value(a.x), b, sum_0);
      sum_1 = mul_add(Value(a.y), b, sum_1);
      sum_2 = mul_add(Value(a.z), b, sum_2);
      sum_3 = mul_add(Value(a.w), b, sum_3);
    }
  }
  let a = (workgroup.y * TILE_QUADS + a_quad) * 4u;
  let b = (workgroup.x * TILE_QUADS + b_quad) * 4u;
  add_to_row(a, b, sum_0);
  add_to_row(a + 1u, b, sum_1);
  add_to_row(a + 2u, b, sum_2);
  add_to_row(a + 3u, b, sum_3);
}
