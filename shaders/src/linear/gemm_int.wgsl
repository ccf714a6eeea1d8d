// The main loop of the integer GEMMs: 64 rows by 64 outputs a workgroup, 4 by 4 an invocation, 64 features at a time.
// The kernel's file gives `load_w`, sixteen features of an output as i8, and `finish`, the sum from the accumulator.

const WORKGROUP: u32 = 256u;
const TILE: u32 = 64u;
// Invocations across a tile: an invocation has rows and outputs i, i + LANES, i + 2 * LANES, i + 3 * LANES.
const LANES: u32 = 16u;
// vec4s of sixteen features in a step.
const STEP_VECS: u32 = 4u;
// One more than TILE: the four vec4s of a row are stored to different banks.
const TILE_STRIDE: u32 = 65u;

var<workgroup> x_tile: array<vec4<u32>, STEP_VECS * TILE_STRIDE>;
var<workgroup> w_tile: array<vec4<u32>, STEP_VECS * TILE_STRIDE>;

fn dot_outputs(a: vec4<u32>, w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>) -> vec4<i32> {
  return vec4<i32>(dot16(a, w0), dot16(a, w1), dot16(a, w2), dot16(a, w3));
}

fn store_outputs(row: u32, out: u32, acc: vec4<i32>) {
  if (row >= params.rows) {
    return;
  }
  for (var i = 0u; i < 4u; i += 1u) {
    if (out + i * LANES < params.out_features) {
      store_accumulator(row, out + i * LANES, finish(acc[i]));
    }
  }
}

// The tile whose first row and output are given. Every invocation of the workgroup calls it.
fn gemm_tile(first_row: u32, first_out: u32, lid: u32) {
  let row_vecs = params.in_words / 4u;
  let load_row = lid / STEP_VECS;
  let load_vec = lid % STEP_VECS;
  let load_to = load_vec * TILE_STRIDE + load_row;
  let own_row = lid / LANES;
  let own_out = lid % LANES;
  var acc0 = vec4<i32>();
  var acc1 = vec4<i32>();
  var acc2 = vec4<i32>();
  var acc3 = vec4<i32>();
  for (var first_vec = 0u; first_vec < row_vecs; first_vec += STEP_VECS) {
    let vec = first_vec + load_vec;
    var x_value = vec4<u32>();
    var w_value = vec4<u32>();
    if (vec < row_vecs && first_row + load_row < params.rows) {
      x_value = x_q[(first_row + load_row) * row_vecs + vec];
    }
    if (vec < row_vecs && first_out + load_row < params.out_features) {
      w_value = load_w(first_out + load_row, vec);
    }
    workgroupBarrier();
    x_tile[load_to] = x_value;
    w_tile[load_to] = w_value;
    workgroupBarrier();
    for (var k = 0u; k < STEP_VECS; k += 1u) {
      let w0 = w_tile[k * TILE_STRIDE + own_out];
      let w1 = w_tile[k * TILE_STRIDE + own_out + LANES];
      let w2 = w_tile[k * TILE_STRIDE + own_out + 2u * LANES];
      let w3 = w_tile[k * TILE_STRIDE + own_out + 3u * LANES];
      acc0 += dot_outputs(x_tile[k * TILE_STRIDE + own_row], w0, w1, w2, w3);
      acc1 += dot_outputs(x_tile[k * TILE_STRIDE + own_row + LANES], w0, w1, w2, w3);
      acc2 += dot_outputs(x_tile[k * TILE_STRIDE + own_row + 2u * LANES], w0, w1, w2, w3);
      acc3 += dot_outputs(x_tile[k * TILE_STRIDE + own_row + 3u * LANES], w0, w1, w2, w3);
    }
  }
  store_outputs(first_row + own_row, first_out + own_out, acc0);
  store_outputs(first_row + own_row + LANES, first_out + own_out, acc1);
  store_outputs(first_row + own_row + 2u * LANES, first_out + own_out, acc2);
  store_outputs(first_row + own_row + 3u * LANES, first_out + own_out, acc3);
}
