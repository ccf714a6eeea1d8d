// The main loop of the integer GEMVs on adapters with subgroups: 32 outputs of ROWS rows a workgroup, a subgroup for each eight
// outputs, as many rounds as it takes. Weights are read once for all rows.

// Rows of a workgroup.
override ROWS: u32 = 1u;

const MOST_ROWS: u32 = 8u;
const WORKGROUP: u32 = 128u;
const OUTPUTS: u32 = 32u;

fn x_vec(row: u32, vec: u32) -> vec4<u32> {
  return x_q[row * (params.in_words / 4u) + vec];
}

fn output_index(first: u32, n: u32) -> u32 {
  return min(first + n, params.out_features - 1u);
}

fn store_sums(row: u32, first: u32, sums: Sums, place: Place) {
  for (var n = place.lane; n < EIGHT; n += place.lanes) {
    if (row < params.rows && first + n < params.out_features) {
      store_accumulator(row, first + n, sum_of(sums, n));
    }
  }
}

// Outputs first_out.. of the rows first_row.. . Every invocation of the workgroup calls it.
fn gemv_outputs_by_subgroup(first_row: u32, first_out: u32, place: Place) {
  let batches = num_batches(place.lanes);
  for (var round = 0u; round < OUTPUTS; round += EIGHT * place.num_subgroups) {
    let of_workgroup = round + EIGHT * place.subgroup;
    let first = first_out + of_workgroup;
    let used = of_workgroup < OUTPUTS && first < params.out_features;
    var steps = load_steps(first, place.lane);
    if (ROWS == 1u) {
      var sums = Sums();
      if (used) {
        for (var batch = 0u; batch < batches; batch += 1u) {
          let now = steps;
          if (batch + 1u < batches) {
            steps = load_steps(first, place.lane + (batch + 1u) * place.lanes);
          }
          sums = add_steps(sums, first_row, place.lane + batch * place.lanes, now);
        }
      }
      let all = total(sums);
      if (used) {
        store_sums(first_row, first, all, place);
      }
    } else {
      var sums = array<Sums, MOST_ROWS>();
      if (used) {
        for (var batch = 0u; batch < batches; batch += 1u) {
          let now = steps;
          if (batch + 1u < batches) {
            steps = load_steps(first, place.lane + (batch + 1u) * place.lanes);
          }
          for (var t = 0u; t < ROWS; t += 1u) {
            sums[t] = add_steps(sums[t], min(first_row + t, params.rows - 1u), place.lane + batch * place.lanes, now);
          }
        }
      }
      for (var t = 0u; t < ROWS; t += 1u) {
        let all = total(sums[t]);
        if (used) {
          store_sums(first_row + t, first, all, place);
        }
      }
    }
  }
}
