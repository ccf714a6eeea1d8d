// The main loop of the integer GEMVs: eight outputs of one row a workgroup, 32 invocations each output.
// The kernel's file gives `weight_vecs`, the vec4s of a row of weights, `dot_vec`, the products of one of them, and
// `finish`, the sum from the accumulator.

const WORKGROUP: u32 = 256u;
const OUTPUTS: u32 = 8u;
const LANES: u32 = 32u;

var<workgroup> lane_sums: array<i32, WORKGROUP>;

// Outputs first_out.. of `row`. Every invocation of the workgroup calls it.
fn gemv_outputs(row: u32, first_out: u32, lid: u32) {
  let lane = lid % LANES;
  let out = first_out + lid / LANES;
  var acc = 0;
  if (out < params.out_features) {
    let vecs = weight_vecs();
    for (var i = lane; i < vecs; i += LANES) {
      acc += dot_vec(row, out, i);
    }
  }
  lane_sums[lid] = acc;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      lane_sums[lid] += lane_sums[lid + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u && out < params.out_features) {
    store_accumulator(row, out, finish(lane_sums[lid]));
  }
}
