// The products of pairs of outputs, GROUP invocations of a subgroup a pair, for the integer GEMVs on adapters with subgroups. Sums of
// integers are the same in any order, so the size of a subgroup does not matter. Other parts give `XStep`, `WStep` and what makes and
// multiplies them, and `x_vec`, a vec4 of a row of x.

// Invocations of a pair, or the whole subgroup where that is smaller. Few make the others' reads of x the same, many make many workgroups.
override GROUP: u32 = 32u;

// Steps of an invocation that are on their way at once: 4, in the fused linears also 2, for one output alone also 3. It is 1 for short rows,
// whose invocations have no more.
override STEPS_AHEAD: u32 = 4u;

// Invocations of a workgroup. 512 where an adapter has so many, for kernels whose workgroups are few.
override WORKGROUP: u32 = 256u;

// Where an invocation stands: its pair of the workgroup, the invocations of a pair, and the place among them; the place in its subgroup.
// The subgroup's size is handed on beside it: what is in a struct with something that differs between invocations counts as different too,
// for compilers that check where subgroups may work together.
struct Place {
  pair: u32,
  lanes: u32,
  lane: u32,
  subgroup_lane: u32,
}

fn place_of(subgroup: u32, lanes: u32, lane: u32) -> Place {
  let group = min(lanes, GROUP);
  return Place((subgroup * lanes + lane) / group, group, lane % group, lane);
}

// Steps of both outputs of a pair, `lanes` apart, the third and the fourth where STEPS_AHEAD is 4. Each is loaded anew as soon as it was
// used: so many loads are always on their way, in as few registers as that takes.
struct PairSteps {
  a_0: WStep,
  a_1: WStep,
  a_2: WStep,
  a_3: WStep,
  b_0: WStep,
  b_1: WStep,
  b_2: WStep,
  b_3: WStep,
}

// The steps first, first + lanes, .. of outputs a and b. Those past the end are the last one.
fn load_pair(a: u32, b: u32, first: u32, lanes: u32) -> PairSteps {
  let last = num_steps() - 1u;
  let i_0 = min(first, last);
  let i_1 = min(first + lanes, last);
  var steps = PairSteps();
  steps.a_0 = w_step(a, i_0);
  steps.a_1 = w_step(a, i_1);
  steps.b_0 = w_step(b, i_0);
  steps.b_1 = w_step(b, i_1);
  if (STEPS_AHEAD > 2u) {
    let i_2 = min(first + 2u * lanes, last);
    let i_3 = min(first + 3u * lanes, last);
    steps.a_2 = w_step(a, i_2);
    steps.a_3 = w_step(a, i_3);
    steps.b_2 = w_step(b, i_2);
    steps.b_3 = w_step(b, i_3);
  }
  return steps;
}

// The products of a step of both outputs with a row.
fn dot_both(row: u32, step: u32, a: WStep, b: WStep) -> vec2<i32> {
  let x = x_step(row, step);
  return vec2<i32>(dot_step(x, a), dot_step(x, b));
}

// The same, none past the end.
fn dot_rest(row: u32, step: u32, a: WStep, b: WStep) -> vec2<i32> {
  return select(vec2<i32>(), dot_both(row, min(step, num_steps() - 1u), a, b), step < num_steps());
}

// Over the invocations of a pair. Every invocation of the subgroup calls it.
fn sum_of_group(own: vec2<i32>, subgroup_lanes: u32) -> vec2<i32> {
  var sum = own;
  for (var half = min(subgroup_lanes, GROUP) / 2u; half > 0u; half /= 2u) {
    sum += subgroupShuffleXor(sum, half);
  }
  return sum;
}

// The products of outputs a and b with one row, whose first steps are `steps`; of the invocation alone, and nothing where it has none.
fn dot_row(row: u32, a: u32, b: u32, place: Place, steps: PairSteps, is_own: bool) -> vec2<i32> {
  let lanes = place.lanes;
  let last = num_steps() - 1u;
  let turn = select(2u, 4u, STEPS_AHEAD > 2u) * lanes;
  // Turns that every invocation has as a whole.
  let whole = num_steps() / turn * turn;
  var all = steps;
  var sums = vec2<i32>();
  for (var i = place.lane; i < whole && is_own; i += turn) {
    let next = i + turn;
    sums += dot_both(row, i, all.a_0, all.b_0);
    all.a_0 = w_step(a, min(next, last));
    all.b_0 = w_step(b, min(next, last));
    sums += dot_both(row, i + lanes, all.a_1, all.b_1);
    all.a_1 = w_step(a, min(next + lanes, last));
    all.b_1 = w_step(b, min(next + lanes, last));
    if (STEPS_AHEAD > 2u) {
      sums += dot_both(row, i + 2u * lanes, all.a_2, all.b_2);
      all.a_2 = w_step(a, min(next + 2u * lanes, last));
      all.b_2 = w_step(b, min(next + 2u * lanes, last));
      sums += dot_both(row, i + 3u * lanes, all.a_3, all.b_3);
      all.a_3 = w_step(a, min(next + 3u * lanes, last));
      all.b_3 = w_step(b, min(next + 3u * lanes, last));
    }
  }
  if (whole < num_steps() && is_own) {
    sums += dot_rest(row, whole + place.lane, all.a_0, all.b_0);
  }
  if (whole + lanes < num_steps() && is_own) {
    sums += dot_rest(row, whole + lanes + place.lane, all.a_1, all.b_1);
  }
  if (STEPS_AHEAD > 2u && whole + 2u * lanes < num_steps() && is_own) {
    sums += dot_rest(row, whole + 2u * lanes + place.lane, all.a_2, all.b_2);
  }
  if (STEPS_AHEAD > 2u && whole + 3u * lanes < num_steps() && is_own) {
    sums += dot_rest(row, whole + 3u * lanes + place.lane, all.a_3, all.b_3);
  }
  return sums;
}
