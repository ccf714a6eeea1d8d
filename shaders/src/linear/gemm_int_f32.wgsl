// The main loop of the integer GEMMs where a dot product of bytes is no instruction: a tile's bytes become f32 once, and a product is then one
// multiply-add. 64 rows by 64 outputs a workgroup, 4 by 4 an invocation, 32 features at a time. The kernel's file gives `load_w`,
// sixteen features of an output as i8, and `finish`, the sum from the accumulator.
//
// Sums of PART features are integers of at most 1024 * 127 * 128 < 2^24: exact in f32 in any order. They are added up as i32.

const WORKGROUP: u32 = 256u;
const TILE: u32 = 64u;
// Invocations across a tile: an invocation has rows and outputs i, i + LANES, i + 2 * LANES, i + 3 * LANES.
const LANES: u32 = 16u;
// vec4s of sixteen features, and quads of four, in a step.
const STEP_VECS: u32 = 2u;
const STEP_QUADS: u32 = 8u;
// vec4s of sixteen features in a part.
const PART_VECS: u32 = 64u;

// Quad q of row r is element q * TILE + r.
var<workgroup> x_tile: array<vec4<f32>, STEP_QUADS * TILE>;
var<workgroup> w_tile: array<vec4<f32>, STEP_QUADS * TILE>;

fn floats(word: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(word));
}

fn add_dot(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
  return fma(a.x, b.x, fma(a.y, b.y, fma(a.z, b.z, fma(a.w, b.w, sum))));
}

fn add_dots(a: vec4<f32>, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>, sums: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(add_dot(a, w0, sums.x), add_dot(a, w1, sums.y), add_dot(a, w2, sums.z), add_dot(a, w3, sums.w));
}

// Stages a step of both tiles: half of the workgroup that of x, half that of w, sixteen features of a row or an output each.
fn stage_floats(first_row: u32, first_out: u32, first_vec: u32, row_vecs: u32, lid: u32) {
  let row = lid % TILE;
  let step_vec = lid / TILE % STEP_VECS;
  let vec = first_vec + step_vec;
  let to = step_vec * 4u * TILE + row;
  if (lid < STEP_VECS * TILE) {
    var value = vec4<u32>();
    if (vec < row_vecs && first_row + row < params.rows) {
      value = x_q[(first_row + row) * row_vecs + vec];
    }
    x_tile[to] = floats(value.x);
    x_tile[to + TILE] = floats(value.y);
    x_tile[to + 2u * TILE] = floats(value.z);
    x_tile[to + 3u * TILE] = floats(value.w);
  } else {
    var value = vec4<u32>();
    if (vec < row_vecs && first_out + row < params.out_features) {
      value = load_w(first_out + row, vec);
    }
    w_tile[to] = floats(value.x);
    w_tile[to + TILE] = floats(value.y);
    w_tile[to + 2u * TILE] = floats(value.z);
    w_tile[to + 3u * TILE] = floats(value.w);
  }
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
fn gemm_tile_f32(first_row: u32, first_out: u32, lid: u32) {
  let row_vecs = params.in_words / 4u;
  let own_row = lid / LANES;
  let own_out = lid % LANES;
  var acc0 = vec4<i32>();
  var acc1 = vec4<i32>();
  var acc2 = vec4<i32>();
  var acc3 = vec4<i32>();
  for (var first = 0u; first < row_vecs; first += PART_VECS) {
    var part0 = vec4<f32>();
    var part1 = vec4<f32>();
    var part2 = vec4<f32>();
    var part3 = vec4<f32>();
    for (var vec = first; vec < min(first + PART_VECS, row_vecs); vec += STEP_VECS) {
      workgroupBarrier();   // the tiles of the last step were read
      stage_floats(first_row, first_out, vec, row_vecs, lid);
      workgroupBarrier();
      for (var k = 0u; k < STEP_QUADS * TILE; k += TILE) {
        let w0 = w_tile[k + own_out];
        let w1 = w_tile[k + own_out + LANES];
        let w2 = w_tile[k + own_out + 2u * LANES];
        let w3 = w_tile[k + own_out + 3u * LANES];
        part0 = add_dots(x_tile[k + own_row], w0, w1, w2, w3, part0);
        part1 = add_dots(x_tile[k + own_row + LANES], w0, w1, w2, w3, part1);
        part2 = add_dots(x_tile[k + own_row + 2u * LANES], w0, w1, w2, w3, part2);
        part3 = add_dots(x_tile[k + own_row + 3u * LANES], w0, w1, w2, w3, part3);
      }
    }
    acc0 += vec4<i32>(part0);
    acc1 += vec4<i32>(part1);
    acc2 += vec4<i32>(part2);
    acc3 += vec4<i32>(part3);
  }
  store_outputs(first_row + own_row, first_out + own_out, acc0);
  store_outputs(first_row + own_row + LANES, first_out + own_out, acc1);
  store_outputs(first_row + own_row + 2u * LANES, first_out + own_out, acc2);
  store_outputs(first_row + own_row + 3u * LANES, first_out + own_out, acc3);
}
