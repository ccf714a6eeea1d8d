// The main loop of the integer GEMVs on adapters with subgroups. For one row each GROUP invocations have an output, so that a workgroup has
// 256 / GROUP: many subgroups with few registers. For several, 512 / GROUP outputs of ROWS rows; weights are read once for all rows.

// Rows of a workgroup, at most 8.
override ROWS: u32 = 1u;

fn x_vec(row: u32, vec: u32) -> vec4<u32> {
  return x_q[row * (params.in_words / 4u) + vec];
}

// Outputs of a workgroup.
fn outputs_of_workgroup() -> u32 {
  return select(2u, 1u, ROWS == 1u) * WORKGROUP / GROUP;
}

// The products of a step past the turns that all invocations have; none past the end.
fn dot_last(row: u32, step: u32, w: WStep) -> i32 {
  return select(0, dot_step(x_step(row, min(step, num_steps() - 1u)), w), step < num_steps());
}

// The products of an output with one row; of the invocation alone, and nothing where it has none. Steps are loaded anew as soon as they
// were used, as dot_row of subgroup_pairs.wgsl does. With a constant width nothing but loads and products is left of it.
fn dot_output(row: u32, out: u32, place: Place, is_own: bool) -> i32 {
  let lanes = place.lanes;
  let steps = num_steps();
  let last = steps - 1u;
  let turn = STEPS_AHEAD * lanes;
  var w_0 = w_step(out, min(place.lane, last));
  var w_1 = WStep();
  var w_2 = WStep();
  var w_3 = WStep();
  if (STEPS_AHEAD > 1u) {
    w_1 = w_step(out, min(place.lane + lanes, last));
    w_2 = w_step(out, min(place.lane + 2u * lanes, last));
  }
  if (STEPS_AHEAD > 3u) {
    w_3 = w_step(out, min(place.lane + 3u * lanes, last));
  }
  let whole = steps / turn * turn;
  var sum = 0;
  for (var i = place.lane; i < whole && is_own; i += turn) {
    let next = i + turn;
    sum += dot_step(x_step(row, i), w_0);
    w_0 = w_step(out, min(next, last));
    if (STEPS_AHEAD > 1u) {
      sum += dot_step(x_step(row, i + lanes), w_1);
      w_1 = w_step(out, min(next + lanes, last));
      sum += dot_step(x_step(row, i + 2u * lanes), w_2);
      w_2 = w_step(out, min(next + 2u * lanes, last));
    }
    if (STEPS_AHEAD > 3u) {
      sum += dot_step(x_step(row, i + 3u * lanes), w_3);
      w_3 = w_step(out, min(next + 3u * lanes, last));
    }
  }
  let rest = whole + place.lane;
  if (whole < steps && is_own) {
    sum += dot_last(row, rest, w_0);
  }
  if (STEPS_AHEAD > 1u && whole + lanes < steps && is_own) {
    sum += dot_last(row, rest + lanes, w_1);
  }
  if (STEPS_AHEAD > 1u && whole + 2u * lanes < steps && is_own) {
    sum += dot_last(row, rest + 2u * lanes, w_2);
  }
  if (STEPS_AHEAD > 3u && whole + 3u * lanes < steps && is_own) {
    sum += dot_last(row, rest + 3u * lanes, w_3);
  }
  return sum;
}

// Outputs of the workgroup, from first_out on, of one row. Every invocation of the workgroup calls it.
fn gemv_of_row(row: u32, first_out: u32, place: Place, subgroup_lanes: u32) {
  let out = first_out + place.pair;
  // Invocations past those of the outputs, where subgroups are small, store nothing.
  let is_own = place.pair < WORKGROUP / GROUP && out < params.out_features;
  let at = min(out, params.out_features - 1u);
  let own = load_factor(row, at);
  var sum = dot_output(row, at, place, is_own);
  for (var half = min(subgroup_lanes, GROUP) / 2u; half > 0u; half /= 2u) {
    sum += subgroupShuffleXor(sum, half);
  }
  if (place.lane == 0u && is_own) {
    store_by(own, row, out, sum);
  }
}

// The sums of a pair of outputs for each row. They stand written out: drivers keep arrays in memory.
struct RowSums {
  s_0: vec2<i32>,
  s_1: vec2<i32>,
  s_2: vec2<i32>,
  s_3: vec2<i32>,
  s_4: vec2<i32>,
  s_5: vec2<i32>,
  s_6: vec2<i32>,
  s_7: vec2<i32>,
}

fn row_at(first_row: u32, t: u32) -> u32 {
  return min(first_row + t, params.rows - 1u);
}

// `sums` and the products of a step with the rows.
fn add_rows(sums: RowSums, first_row: u32, step: u32, a: WStep, b: WStep) -> RowSums {
  var all = sums;
  all.s_0 += dot_rest(first_row, step, a, b);
  if (ROWS > 1u) {
    all.s_1 += dot_rest(row_at(first_row, 1u), step, a, b);
  }
  if (ROWS > 2u) {
    all.s_2 += dot_rest(row_at(first_row, 2u), step, a, b);
  }
  if (ROWS > 3u) {
    all.s_3 += dot_rest(row_at(first_row, 3u), step, a, b);
  }
  if (ROWS > 4u) {
    all.s_4 += dot_rest(row_at(first_row, 4u), step, a, b);
  }
  if (ROWS > 5u) {
    all.s_5 += dot_rest(row_at(first_row, 5u), step, a, b);
  }
  if (ROWS > 6u) {
    all.s_6 += dot_rest(row_at(first_row, 6u), step, a, b);
  }
  if (ROWS > 7u) {
    all.s_7 += dot_rest(row_at(first_row, 7u), step, a, b);
  }
  return all;
}

// Stores row t of the pair; `own` is what the first row's output of the invocation takes. Every invocation calls it.
fn store_sums(first_row: u32, t: u32, sums: vec2<i32>, out: u32, place: Place, subgroup_lanes: u32, own: Factor) {
  let sum = sum_of_group(sums, subgroup_lanes);
  let row = first_row + t;
  for (var n = place.lane; n < 2u && out + n < params.out_features && row < params.rows; n += place.lanes) {
    var by = own;
    if (t > 0u || n != place.lane) {
      by = load_factor(row, out + n);
    }
    store_by(by, row, out + n, select(sum.x, sum.y, n == 1u));
  }
}

// Outputs of the workgroup's pairs, the first of which has first_out, of the rows first_row.. . Every invocation of the workgroup calls it.
fn gemv_of_rows(first_row: u32, first_out: u32, place: Place, subgroup_lanes: u32) {
  // Pairs past those of the workgroup, where subgroups are small, store nothing.
  let is_own = place.pair < WORKGROUP / GROUP;
  let out = select(params.out_features, first_out + 2u * place.pair, is_own);
  let last_out = params.out_features - 1u;
  let a = min(out, last_out);
  let b = min(out + 1u, last_out);
  let own = load_factor(first_row, min(out + place.lane % 2u, last_out));
  let last = num_steps() - 1u;
  var sums = RowSums();
  if (STEPS_AHEAD == 1u) {
    for (var i = place.lane; i <= last && is_own; i += place.lanes) {
      sums = add_rows(sums, first_row, i, w_step(a, i), w_step(b, i));
    }
  } else {
    var a_0 = w_step(a, min(place.lane, last));
    var b_0 = w_step(b, min(place.lane, last));
    var a_1 = w_step(a, min(place.lane + place.lanes, last));
    var b_1 = w_step(b, min(place.lane + place.lanes, last));
    for (var i = place.lane; i <= last && is_own; i += 2u * place.lanes) {
      let next = i + 2u * place.lanes;
      sums = add_rows(sums, first_row, i, a_0, b_0);
      a_0 = w_step(a, min(next, last));
      b_0 = w_step(b, min(next, last));
      sums = add_rows(sums, first_row, i + place.lanes, a_1, b_1);
      a_1 = w_step(a, min(next + place.lanes, last));
      b_1 = w_step(b, min(next + place.lanes, last));
    }
  }
  store_sums(first_row, 0u, sums.s_0, out, place, subgroup_lanes, own);
  if (ROWS > 1u) {
    store_sums(first_row, 1u, sums.s_1, out, place, subgroup_lanes, own);
  }
  if (ROWS > 2u) {
    store_sums(first_row, 2u, sums.s_2, out, place, subgroup_lanes, own);
  }
  if (ROWS > 3u) {
    store_sums(first_row, 3u, sums.s_3, out, place, subgroup_lanes, own);
  }
  if (ROWS > 4u) {
    store_sums(first_row, 4u, sums.s_4, out, place, subgroup_lanes, own);
  }
  if (ROWS > 5u) {
    store_sums(first_row, 5u, sums.s_5, out, place, subgroup_lanes, own);
  }
  if (ROWS > 6u) {
    store_sums(first_row, 6u, sums.s_6, out, place, subgroup_lanes, own);
  }
  if (ROWS > 7u) {
    store_sums(first_row, 7u, sums.s_7, out, place, subgroup_lanes, own);
  }
}

// Every invocation of the workgroup calls it.
fn gemv_outputs_by_subgroup(first_row: u32, first_out: u32, place: Place, subgroup_lanes: u32) {
  if (ROWS == 1u) {
    gemv_of_row(first_row, first_out, place, subgroup_lanes);
  } else {
    gemv_of_rows(first_row, first_out, place, subgroup_lanes);
  }
}
