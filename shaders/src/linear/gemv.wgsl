// float_linear.wgsl for few rows: a workgroup computes OUTPUTS outputs of one row. LANES invocations share an output: each
// computes whole parts, its own steps of the row, and one of them adds the parts of all in order.
// What follows is shared by gemv_f32 and gemv_f16.
//
// grid: (min(groups, 32768), rows, ceil(groups / 32768)), groups = ceil(out_features / 8); workgroups of 256.

const OUTPUTS: u32 = 8u;
const LANES: u32 = 32u;
// Steps of a row between two barriers: features 0 .. 4096, and so on.
const STEPS: u32 = 128u;

var<workgroup> parts: array<f32, OUTPUTS * STEPS>;

fn part_of(row: u32, o: u32, step: u32) -> f32 {
  var part = 0.0;
  for (var i = 0u; i < STEP_QUADS; i += 1u) {
    let quad = step * STEP_QUADS + i;
    let a = load_x(row, quad);
    let b = load_w(o, quad);
    part = fma(a.x, b.x, part);
    part = fma(a.y, b.y, part);
    part = fma(a.z, b.z, part);
    part = fma(a.w, b.w, part);
  }
  return part;
}

// Every invocation of the workgroup calls it.
fn run(workgroup: vec3<u32>, num_workgroups: vec3<u32>, lane: u32) {
  let row = workgroup.y;
  let output = lane / LANES;
  let o = (workgroup.z * num_workgroups.x + workgroup.x) * OUTPUTS + output;
  let steps = num_steps();
  var total = 0.0;
  for (var first = 0u; first < steps; first += STEPS) {
    let count = min(STEPS, steps - first);
    if (o < params.out_features) {
      for (var i = lane % LANES; i < count; i += LANES) {
        parts[output * STEPS + i] = part_of(row, o, first + i);
      }
    }
    workgroupBarrier();
    if (lane % LANES == 0u) {
      for (var i = 0u; i < count; i += 1u) {
        total = total + parts[output * STEPS + i];
      }
    }
    workgroupBarrier();   // before the next parts are written
  }
  if (lane % LANES == 0u && o < params.out_features) {
    store(row, o, total);
  }
}
