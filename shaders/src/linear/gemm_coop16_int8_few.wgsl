// The main loop of the integer GEMMs of few rows on INT8 cooperative matrices: 16 or 32 rows by 32 outputs a workgroup.
// The matrices are the stand-ins of gemm_coop16_int8.wgsl.
//
// Weights are read from memory once, so what counts is how many of them are on their way: those of four steps of 512 features, and x of
// two. The features of a step are divided among the subgroups, whose sums are added at the end.

alias FragX = coop_mat16x16<f32, A>;
alias FragW = coop_mat16x16<f32, B>;
alias FragSum = coop_mat16x16<f32, C>;

// 1: 16 rows a workgroup; 2: 32.
override ROW_FRAGS: u32 = 2u;

const WORKGROUP: u32 = 256u;
const FRAG: u32 = 16u;
const OUTS: u32 = 2u * FRAG;
// Parts of a step, and vec4s of sixteen features in each.
const PARTS: u32 = 8u;
const VECS_OF_PART: u32 = 4u;
// vec4s in a row of a tile: one more, against bank conflicts. Of a piece of 32 features the first half stands in the first half of the
// row, so that invocations side by side store side by side.
const STEP_VECS: u32 = PARTS * VECS_OF_PART;
const STEP_PIECES: u32 = STEP_VECS / 2u;
const STRIDE: u32 = STEP_VECS + 1u;
// Rows of x, and outputs, that the workgroup loads at once.
const LOAD_ROWS: u32 = WORKGROUP / STEP_VECS;
const LOAD_OUTS: u32 = WORKGROUP / STEP_PIECES;
// vec4s of a matrix of sums, and of all sums of a part.
const SUM_VECS: u32 = FRAG * FRAG / 4u;
override PART_VECS: u32 = 2u * ROW_FRAGS * SUM_VECS;

// 32 rows of x, then the outputs; in the end the sums of each part.
const W_TILE: u32 = 2u * FRAG * STRIDE;
var<workgroup> tile: array<vec4<f32>, W_TILE + OUTS * STRIDE>;

// The first row and output of a workgroup, and an invocation of it.
struct Place {
  first_row: u32,
  first_out: u32,
  invocation: u32,
}

// What an invocation loads of x for a step.
struct XStep {
  v_0: vec4<u32>,
  v_1: vec4<u32>,
  v_2: vec4<u32>,
  v_3: vec4<u32>,
}

// What it loads of the weights.
struct WStep {
  s_0: StoredWeights,
  s_1: StoredWeights,
}

fn load_x_step(place: Place, step: u32) -> XStep {
  let to = place.invocation % STEP_VECS;
  let vec = step * STEP_VECS + 2u * (to % STEP_PIECES) + to / STEP_PIECES;
  let row = place.first_row + place.invocation / STEP_VECS;
  var x = XStep();
  x.v_0 = load_x(row, vec);
  x.v_1 = load_x(row + LOAD_ROWS, vec);
  if (ROW_FRAGS > 1u) {
    x.v_2 = load_x(row + 2u * LOAD_ROWS, vec);
    x.v_3 = load_x(row + 3u * LOAD_ROWS, vec);
  }
  return x;
}

fn load_w_step(place: Place, step: u32) -> WStep {
  let piece = step * STEP_PIECES + place.invocation % STEP_PIECES;
  let out = place.first_out + place.invocation / STEP_PIECES;
  return WStep(load_w(out, piece), load_w(out + LOAD_OUTS, piece));
}

fn put_x(place: Place, x: XStep) {
  let to = place.invocation / STEP_VECS * STRIDE + place.invocation % STEP_VECS;
  tile[to] = bitcast<vec4<f32>>(x.v_0);
  tile[to + LOAD_ROWS * STRIDE] = bitcast<vec4<f32>>(x.v_1);
  if (ROW_FRAGS > 1u) {
    tile[to + 2u * LOAD_ROWS * STRIDE] = bitcast<vec4<f32>>(x.v_2);
    tile[to + 3u * LOAD_ROWS * STRIDE] = bitcast<vec4<f32>>(x.v_3);
  }
}

fn put_w(place: Place, step: u32, w: WStep) {
  let to = W_TILE + place.invocation / STEP_PIECES * STRIDE + place.invocation % STEP_PIECES;
  let piece = step * STEP_PIECES + place.invocation % STEP_PIECES;
  let a = weights_of(w.s_0, piece);
  tile[to] = bitcast<vec4<f32>>(a.first);
  tile[to + STEP_PIECES] = bitcast<vec4<f32>>(a.second);
  let b = weights_of(w.s_1, piece);
  tile[to + LOAD_OUTS * STRIDE] = bitcast<vec4<f32>>(b.first);
  tile[to + LOAD_OUTS * STRIDE + STEP_PIECES] = bitcast<vec4<f32>>(b.second);
}

// Rows and outputs of a workgroup, the first of which are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, invocation: u32, num_subgroups: u32, subgroup: u32) {
  let steps = (params.in_words / 8u + STEP_PIECES - 1u) / STEP_PIECES;
  let place = Place(first_row, first_out, invocation);
  var sum00 = FragSum();
  var sum01 = FragSum();
  var sum10 = FragSum();
  var sum11 = FragSum();
  var x_0 = load_x_step(place, 0u);
  var x_1 = load_x_step(place, 1u);
  var w_0 = load_w_step(place, 0u);
  var w_1 = load_w_step(place, 1u);
  var w_2 = load_w_step(place, 2u);
  var w_3 = load_w_step(place, 3u);
  // Four times the same, written out, with a step's loads in variables of their own.
  // Of more subgroups than parts some add nothing, of fewer each adds several parts.
  for (var step = 0u; step < steps; step += 4u) {
    workgroupBarrier();   // the tile of the last step was read
    put_x(place, x_0);
    put_w(place, step, w_0);
    workgroupBarrier();
    x_0 = load_x_step(place, step + 2u);
    w_0 = load_w_step(place, step + 4u);
    for (var part = subgroup; part < PARTS; part += num_subgroups) {
      let x_at = part * VECS_OF_PART;
      let w_at = W_TILE + x_at;
      let x0 = coopLoadT<FragX>(&tile[x_at], STRIDE);
      let w0 = coopLoad<FragW>(&tile[w_at], STRIDE);
      let w1 = coopLoad<FragW>(&tile[w_at + FRAG * STRIDE], STRIDE);
      let x2 = coopLoadT<FragX>(&tile[x_at + 2u], STRIDE);
      let w2 = coopLoad<FragW>(&tile[w_at + 2u], STRIDE);
      let w3 = coopLoad<FragW>(&tile[w_at + 2u + FRAG * STRIDE], STRIDE);
      sum00 = coopMultiplyAdd(x0, w0, sum00);
      sum01 = coopMultiplyAdd(x0, w1, sum01);
      sum00 = coopMultiplyAdd(x2, w2, sum00);
      sum01 = coopMultiplyAdd(x2, w3, sum01);
      if (ROW_FRAGS > 1u) {
        let x1 = coopLoadT<FragX>(&tile[x_at + FRAG * STRIDE], STRIDE);
        let x3 = coopLoadT<FragX>(&tile[x_at + 2u + FRAG * STRIDE], STRIDE);
        sum10 = coopMultiplyAdd(x1, w0, sum10);
        sum11 = coopMultiplyAdd(x1, w1, sum11);
        sum10 = coopMultiplyAdd(x3, w2, sum10);
        sum11 = coopMultiplyAdd(x3, w3, sum11);
      }
    }
    if (step + 1u >= steps) {
      break;
    }
    workgroupBarrier();   // the tile of the last step was read
    put_x(place, x_1);
    put_w(place, step + 1u, w_1);
    workgroupBarrier();
    x_1 = load_x_step(place, step + 3u);
    w_1 = load_w_step(place, step + 5u);
    for (var part = subgroup; part < PARTS; part += num_subgroups) {
      let x_at = part * VECS_OF_PART;
      let w_at = W_TILE + x_at;
      let x0 = coopLoadT<FragX>(&tile[x_at], STRIDE);
      let w0 = coopLoad<FragW>(&tile[w_at], STRIDE);
      let w1 = coopLoad<FragW>(&tile[w_at + FRAG * STRIDE], STRIDE);
      let x2 = coopLoadT<FragX>(&tile[x_at + 2u], STRIDE);
      let w2 = coopLoad<FragW>(&tile[w_at + 2u], STRIDE);
      let w3 = coopLoad<FragW>(&tile[w_at + 2u + FRAG * STRIDE], STRIDE);
      sum00 = coopMultiplyAdd(x0, w0, sum00);
      sum01 = coopMultiplyAdd(x0, w1, sum01);
      sum00 = coopMultiplyAdd(x2, w2, sum00);
      sum01 = coopMultiplyAdd(x2, w3, sum01);
      if (ROW_FRAGS > 1u) {
        let x1 = coopLoadT<FragX>(&tile[x_at + FRAG * STRIDE], STRIDE);
        let x3 = coopLoadT<FragX>(&tile[x_at + 2u + FRAG * STRIDE], STRIDE);
        sum10 = coopMultiplyAdd(x1, w0, sum10);
        sum11 = coopMultiplyAdd(x1, w1, sum11);
        sum10 = coopMultiplyAdd(x3, w2, sum10);
        sum11 = coopMultiplyAdd(x3, w3, sum11);
      }
    }
    if (step + 2u >= steps) {
      break;
    }
    workgroupBarrier();   // the tile of the last step was read
    put_x(place, x_0);
    put_w(place, step + 2u, w_2);
    workgroupBarrier();
    x_0 = load_x_step(place, step + 4u);
    w_2 = load_w_step(place, step + 6u);
    for (var part = subgroup; part < PARTS; part += num_subgroups) {
      let x_at = part * VECS_OF_PART;
      let w_at = W_TILE + x_at;
      let x0 = coopLoadT<FragX>(&tile[x_at], STRIDE);
      let w0 = coopLoad<FragW>(&tile[w_at], STRIDE);
      let w1 = coopLoad<FragW>(&tile[w_at + FRAG * STRIDE], STRIDE);
      let x2 = coopLoadT<FragX>(&tile[x_at + 2u], STRIDE);
      let w2 = coopLoad<FragW>(&tile[w_at + 2u], STRIDE);
      let w3 = coopLoad<FragW>(&tile[w_at + 2u + FRAG * STRIDE], STRIDE);
      sum00 = coopMultiplyAdd(x0, w0, sum00);
      sum01 = coopMultiplyAdd(x0, w1, sum01);
      sum00 = coopMultiplyAdd(x2, w2, sum00);
      sum01 = coopMultiplyAdd(x2, w3, sum01);
      if (ROW_FRAGS > 1u) {
        let x1 = coopLoadT<FragX>(&tile[x_at + FRAG * STRIDE], STRIDE);
        let x3 = coopLoadT<FragX>(&tile[x_at + 2u + FRAG * STRIDE], STRIDE);
        sum10 = coopMultiplyAdd(x1, w0, sum10);
        sum11 = coopMultiplyAdd(x1, w1, sum11);
        sum10 = coopMultiplyAdd(x3, w2, sum10);
        sum11 = coopMultiplyAdd(x3, w3, sum11);
      }
    }
    if (step + 3u >= steps) {
      break;
    }
    workgroupBarrier();   // the tile of the last step was read
    put_x(place, x_1);
    put_w(place, step + 3u, w_3);
    workgroupBarrier();
    x_1 = load_x_step(place, step + 5u);
    w_3 = load_w_step(place, step + 7u);
    for (var part = subgroup; part < PARTS; part += num_subgroups) {
      let x_at = part * VECS_OF_PART;
      let w_at = W_TILE + x_at;
      let x0 = coopLoadT<FragX>(&tile[x_at], STRIDE);
      let w0 = coopLoad<FragW>(&tile[w_at], STRIDE);
      let w1 = coopLoad<FragW>(&tile[w_at + FRAG * STRIDE], STRIDE);
      let x2 = coopLoadT<FragX>(&tile[x_at + 2u], STRIDE);
      let w2 = coopLoad<FragW>(&tile[w_at + 2u], STRIDE);
      let w3 = coopLoad<FragW>(&tile[w_at + 2u + FRAG * STRIDE], STRIDE);
      sum00 = coopMultiplyAdd(x0, w0, sum00);
      sum01 = coopMultiplyAdd(x0, w1, sum01);
      sum00 = coopMultiplyAdd(x2, w2, sum00);
      sum01 = coopMultiplyAdd(x2, w3, sum01);
      if (ROW_FRAGS > 1u) {
        let x1 = coopLoadT<FragX>(&tile[x_at + FRAG * STRIDE], STRIDE);
        let x3 = coopLoadT<FragX>(&tile[x_at + 2u + FRAG * STRIDE], STRIDE);
        sum10 = coopMultiplyAdd(x1, w0, sum10);
        sum11 = coopMultiplyAdd(x1, w1, sum11);
        sum10 = coopMultiplyAdd(x3, w2, sum10);
        sum11 = coopMultiplyAdd(x3, w3, sum11);
      }
    }
  }
  workgroupBarrier();
  for (var part = subgroup; part < PARTS; part += PARTS) {
    let to = part * PART_VECS;
    coopStoreT(sum00, &tile[to], FRAG / 4u);
    coopStoreT(sum01, &tile[to + SUM_VECS], FRAG / 4u);
    if (ROW_FRAGS > 1u) {
      coopStoreT(sum10, &tile[to + 2u * SUM_VECS], FRAG / 4u);
      coopStoreT(sum11, &tile[to + 3u * SUM_VECS], FRAG / 4u);
    }
  }
  workgroupBarrier();
  // Four outputs of a row a time.
  for (var i = invocation; i < PART_VECS; i += WORKGROUP) {
    let frag = i / SUM_VECS;
    let row = first_row + frag / 2u * FRAG + i % SUM_VECS / 4u;
    let out = first_out + frag % 2u * FRAG + i % 4u * 4u;
    var sum = vec4<i32>();
    for (var part = 0u; part < min(PARTS, num_subgroups); part += 1u) {
      sum += bitcast<vec4<i32>>(tile[part * PART_VECS + i]);
    }
    for (var n = 0u; n < 4u && row < params.rows && out + n < params.out_features; n += 1u) {
      store_accumulator(row, out + n, sum[n]);
    }
  }
}
