// y[g, l] = sum over k < 8 of a[k] after `loops` times a[k] = a[k] + dot of a[k] and x[l] as four i8 each; a[k] starts as x[l] + k
//
//   x  [256]             u32
//   y  [groups, 256] i32, modulo 2^32
//
// grid: (groups, 1, 1), any number, each of which does the same. `loops` is a multiple of 8, which compilers unroll.

struct Params {
  loops: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<i32>;

@compute @workgroup_size(256)
fn peak_dot4(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let b = x[lane];
  let s = bitcast<i32>(b);
  var a0 = s;
  var a1 = s + 1;
  var a2 = s + 2;
  var a3 = s + 3;
  var a4 = s + 4;
  var a5 = s + 5;
  var a6 = s + 6;
  var a7 = s + 7;
  for (var i = 0u; i < params.loops; i += 8u) {
    for (var j = 0u; j < 8u; j++) {
      a0 = dot4I8Packed(bitcast<u32>(a0), b) + a0;
      a1 = dot4I8Packed(bitcast<u32>(a1), b) + a1;
      a2 = dot4I8Packed(bitcast<u32>(a2), b) + a2;
      a3 = dot4I8Packed(bitcast<u32>(a3), b) + a3;
      a4 = dot4I8Packed(bitcast<u32>(a4), b) + a4;
      a5 = dot4I8Packed(bitcast<u32>(a5), b) + a5;
      a6 = dot4I8Packed(bitcast<u32>(a6), b) + a6;
      a7 = dot4I8Packed(bitcast<u32>(a7), b) + a7;
    }
  }
  y[256u * group.x + lane] = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7));
}
