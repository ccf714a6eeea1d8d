// y[g, l] = sum over k < 8 of a[k] after `loops` times a[k] = a[k] * x[l, 0] + x[l, 1]; a[k] starts as k
//
//   x  [256, 2]          f32
//   y  [groups, 256] f32
//
// grid: (groups, 1, 1), any number, each of which does the same. `loops` is a multiple of 8, which compilers unroll.

struct Params {
  loops: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn peak_f32(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let b = x[lane].x;
  let c = x[lane].y;
  var a0 = 0.0;
  var a1 = 1.0;
  var a2 = 2.0;
  var a3 = 3.0;
  var a4 = 4.0;
  var a5 = 5.0;
  var a6 = 6.0;
  var a7 = 7.0;
  for (var i = 0u; i < params.loops; i += 8u) {
    for (var j = 0u; j < 8u; j++) {
      a0 = fma(a0, b, c);
      a1 = fma(a1, b, c);
      a2 = fma(a2, b, c);
      a3 = fma(a3, b, c);
      a4 = fma(a4, b, c);
      a5 = fma(a5, b, c);
      a6 = fma(a6, b, c);
      a7 = fma(a7, b, c);
    }
  }
  y[256u * group.x + lane] = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
}
