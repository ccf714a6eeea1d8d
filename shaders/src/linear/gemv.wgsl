// float_linear.wgsl for few rows: a workgroup computes OUTPUTS outputs of one row. LANES invocations share an output: each
// computes whole parts, its own steps of the row, and one of them adds the parts of all in order.
// What follows is shared by gemv_f32 and gemv_f16, whose parts load the weights of a step.
//
// grid: (min(groups, 32768), rows, ceil(groups / 32768)), groups = ceil(out_features / 8); workgroups of 256.

const OUTPUTS: u32 = 8u;
const LANES: u32 = 32u;
// Steps of a row between two barriers: features 0 .. 2048, and so on.
const STEPS: u32 = 64u;
// Quads of a step in workgroup memory, and one more, against bank conflicts.
const X_STRIDE: u32 = STEP_QUADS + 1u;

var<workgroup> x_quads: array<vec4<f32>, STEPS * X_STRIDE>;
var<workgroup> parts: array<f32, OUTPUTS * STEPS>;

// The chain over a quad of x and of weights.
fn add_quad(part: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, part))));
}

// The part of a step, whose x is at `at` in workgroup memory.
fn part_of(at: u32, w: WStep) -> f32 {
  var part = add_quad(0.0, x_quads[at], quad_0(w));
  part = add_quad(part, x_quads[at + 1u], quad_1(w));
  part = add_quad(part, x_quads[at + 2u], quad_2(w));
  part = add_quad(part, x_quads[at + 3u], quad_3(w));
  part = add_quad(part, x_quads[at + 4u], quad_4(w));
  part = add_quad(part, x_quads[at + 5u], quad_5(w));
  part = add_quad(part, x_quads[at + 6u], quad_6(w));
  return add_quad(part, x_quads[at + 7u], quad_7(w));
}

// Every invocation of the workgroup calls it.
fn run(workgroup: vec3<u32>, num_workgroups: vec3<u32>, lane: u32) {
  let row = workgroup.y;
  let output = lane / LANES;
  let o = min((workgroup.z * num_workgroups.x + workgroup.x) * OUTPUTS + output, params.out_features - 1u);
  let is_output = (workgroup.z * num_workgroups.x + workgroup.x) * OUTPUTS + output < params.out_features;
  let steps = num_steps();
  var total = 0.0;
  for (var first = 0u; first < steps; first += STEPS) {
    let count = min(STEPS, steps - first);
    // Two steps of each invocation: the last one again past the end. Their weights are on their way before x is.
    let own = lane % LANES;
    let w_0 = load_step(o, first + min(own, count - 1u));
    let w_1 = load_step(o, first + min(own + LANES, count - 1u));
    for (var i = lane; i < count * STEP_QUADS; i += OUTPUTS * LANES) {
      x_quads[i / STEP_QUADS * X_STRIDE + i % STEP_QUADS] = load_x(row, first * STEP_QUADS + i);
    }
    workgroupBarrier();
    parts[output * STEPS + own] = part_of(min(own, count - 1u) * X_STRIDE, w_0);
    parts[output * STEPS + own + LANES] = part_of(min(own + LANES, count - 1u) * X_STRIDE, w_1);
    workgroupBarrier();
    if (own == 0u) {
      for (var i = 0u; i < count; i += 1u) {
        total = total + parts[output * STEPS + i];
      }
    }
    workgroupBarrier();   // before the next parts are written
  }
  if (lane % LANES == 0u && is_output) {
    store(row, o, total);
  }
}
