// The main loop of the integer GEMVs on adapters with subgroups: eight outputs of one row a workgroup, a subgroup for each
// output, as many rounds as it takes. Sums of integers are the same in any order, so the size of a subgroup does not matter.
// The kernel's other parts give `weight_vecs`, the vec4s of a row of weights, `dot_vec`, the products of one of them, and
// `finish`, the sum from the accumulator.

const WORKGROUP: u32 = 256u;
const OUTPUTS: u32 = 8u;

// Where an invocation stands: subgroups of the workgroup, its own one, that one's size, and the place in it.
struct Place {
  num_subgroups: u32,
  subgroup: u32,
  lanes: u32,
  lane: u32,
}

// Outputs first_out.. of `row`. Every invocation of the workgroup calls it.
fn gemv_outputs_by_subgroup(row: u32, first_out: u32, place: Place) {
  let vecs = weight_vecs();
  for (var round = 0u; round < OUTPUTS; round += place.num_subgroups) {
    let of_workgroup = round + place.subgroup;
    let out = first_out + of_workgroup;
    let used = of_workgroup < OUTPUTS && out < params.out_features;
    var acc = 0;
    if (used) {
      for (var i = place.lane; i < vecs; i += place.lanes) {
        acc += dot_vec(row, out, i);
      }
    }
    let sum = subgroupAdd(acc);
    if (used && place.lane == 0u) {
      store_accumulator(row, out, finish(sum));
    }
  }
}
