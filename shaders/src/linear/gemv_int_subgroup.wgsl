// The main loop of the integer GEMVs on adapters with subgroups: sixteen outputs of ROWS rows a workgroup, a subgroup for each two
// outputs, as many rounds as it takes. Weights are read once for all rows.

// Rows of a workgroup.
override ROWS: u32 = 1u;

const MOST_ROWS: u32 = 8u;
const WORKGROUP: u32 = 256u;
const OUTPUTS: u32 = 16u;

fn x_vec(row: u32, vec: u32) -> vec4<u32> {
  return x_q[row * (params.in_words / 4u) + vec];
}

// Outputs first_out.. of the rows first_row.. . Every invocation of the workgroup calls it.
fn gemv_outputs_by_subgroup(first_row: u32, first_out: u32, place: Place) {
  for (var round = 0u; round < OUTPUTS; round += 2u * place.num_subgroups) {
    let of_workgroup = round + 2u * place.subgroup;
    let out = first_out + of_workgroup;
    let used = of_workgroup < OUTPUTS && out < params.out_features;
    let second = min(out + 1u, params.out_features - 1u);
    var sums = array<vec2<i32>, MOST_ROWS>();
    if (used) {
      for (var i = place.lane; i < num_steps(); i += 4u * place.lanes) {
        let steps = load_pair(out, second, i, place.lanes);
        for (var t = 0u; t < ROWS; t += 1u) {
          sums[t] += dot_pair(min(first_row + t, params.rows - 1u), i, place.lanes, steps);
        }
      }
    }
    for (var t = 0u; t < ROWS; t += 1u) {
      let sum = subgroupAdd(sums[t]);
      if (used && place.lane == 0u && first_row + t < params.rows) {
        store_accumulator(first_row + t, out, sum.x);
        if (second > out) {
          store_accumulator(first_row + t, second, sum.y);
        }
      }
    }
  }
}
