// y[g, l] = sum over k < 8 of both halves of a[k] after `loops` times a[k] = a[k] * x[l, 0] + x[l, 1], on pairs of f16; a[k] starts as (k, k)
//
//   x  [256, 2]          f32, exact in f16
//   y  [groups, 256] f32
//
// grid: (groups, 1, 1), any number, each of which does the same. `loops` is a multiple of 8, which compilers unroll.

enable f16;

struct Params {
  loops: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn peak_f16(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let b = vec2<f16>(f16(x[lane].x));
  let c = vec2<f16>(f16(x[lane].y));
  var a0 = vec2<f16>(0.0h);
  var a1 = vec2<f16>(1.0h);
  var a2 = vec2<f16>(2.0h);
  var a3 = vec2<f16>(3.0h);
  var a4 = vec2<f16>(4.0h);
  var a5 = vec2<f16>(5.0h);
  var a6 = vec2<f16>(6.0h);
  var a7 = vec2<f16>(7.0h);
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
  let sum = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
  y[256u * group.x + lane] = f32(sum.x) + f32(sum.y);
}
