// The products of eight outputs at a time by one subgroup, for the integer GEMVs on adapters with subgroups. Sums of integers are the
// same in any order, so the size of a subgroup does not matter. Other parts give `XStep`, `WStep` and what makes and multiplies them,
// `x_vec`, a vec4 of a row of x, and `output_index`, which outputs the eight from `first` are, in range.

const EIGHT: u32 = 8u;

// Where an invocation stands: subgroups of the workgroup, its own one, that one's size, and the place in it.
struct Place {
  num_subgroups: u32,
  subgroup: u32,
  lanes: u32,
  lane: u32,
}

// A step of eight outputs: so many loads are on their way at once, and x is read once for them.
struct Steps {
  w_0: WStep,
  w_1: WStep,
  w_2: WStep,
  w_3: WStep,
  w_4: WStep,
  w_5: WStep,
  w_6: WStep,
  w_7: WStep,
}

// Of outputs 0 to 3, and 4 to 7.
struct Sums {
  low: vec4<i32>,
  high: vec4<i32>,
}

// The last step again past the end.
fn load_steps(first: u32, step: u32) -> Steps {
  let i = min(step, num_steps() - 1u);
  return Steps(
    w_step(output_index(first, 0u), i),
    w_step(output_index(first, 1u), i),
    w_step(output_index(first, 2u), i),
    w_step(output_index(first, 3u), i),
    w_step(output_index(first, 4u), i),
    w_step(output_index(first, 5u), i),
    w_step(output_index(first, 6u), i),
    w_step(output_index(first, 7u), i),
  );
}

// `sums` and the products of a step, none past the end.
fn add_steps(sums: Sums, row: u32, step: u32, w: Steps) -> Sums {
  if (step >= num_steps()) {
    return sums;
  }
  let x = x_step(row, step);
  let low = vec4<i32>(dot_step(x, w.w_0), dot_step(x, w.w_1), dot_step(x, w.w_2), dot_step(x, w.w_3));
  let high = vec4<i32>(dot_step(x, w.w_4), dot_step(x, w.w_5), dot_step(x, w.w_6), dot_step(x, w.w_7));
  return Sums(sums.low + low, sums.high + high);
}

// Over the subgroup, all of whose invocations call it.
fn total(sums: Sums) -> Sums {
  return Sums(subgroupAdd(sums.low), subgroupAdd(sums.high));
}

// Output n of the eight.
fn sum_of(sums: Sums, n: u32) -> i32 {
  return select(sums.low[n % 4u], sums.high[n % 4u], n >= 4u);
}

// Batches of a step for each invocation of a subgroup.
fn num_batches(lanes: u32) -> u32 {
  return (num_steps() + lanes - 1u) / lanes;
}
