// The products of two outputs at a time by one subgroup, for the integer GEMVs on adapters with subgroups. Sums of integers are the
// same in any order, so the size of a subgroup does not matter. Other parts give `XStep`, `WStep` and what makes and multiplies them,
// and `x_vec`, a vec4 of a row of x.

// Where an invocation stands: subgroups of the workgroup, its own one, that one's size, and the place in it.
struct Place {
  num_subgroups: u32,
  subgroup: u32,
  lanes: u32,
  lane: u32,
}

// Four steps of two outputs, `lanes` apart: so many loads are on their way at once.
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

// Steps first, first + lanes, .. of outputs a and b. Those past the end are the last one.
fn load_pair(a: u32, b: u32, first: u32, lanes: u32) -> PairSteps {
  let last = num_steps() - 1u;
  let i_0 = min(first, last);
  let i_1 = min(first + lanes, last);
  let i_2 = min(first + 2u * lanes, last);
  let i_3 = min(first + 3u * lanes, last);
  return PairSteps(
    w_step(a, i_0), w_step(a, i_1), w_step(a, i_2), w_step(a, i_3),
    w_step(b, i_0), w_step(b, i_1), w_step(b, i_2), w_step(b, i_3),
  );
}

// The products of a step of both outputs, none past the end.
fn dot_both(row: u32, step: u32, a: WStep, b: WStep) -> vec2<i32> {
  if (step >= num_steps()) {
    return vec2<i32>();
  }
  let x = x_step(row, step);
  return vec2<i32>(dot_step(x, a), dot_step(x, b));
}

fn dot_pair(row: u32, first: u32, lanes: u32, steps: PairSteps) -> vec2<i32> {
  return dot_both(row, first, steps.a_0, steps.b_0)
    + dot_both(row, first + lanes, steps.a_1, steps.b_1)
    + dot_both(row, first + 2u * lanes, steps.a_2, steps.b_2)
    + dot_both(row, first + 3u * lanes, steps.a_3, steps.b_3);
}
