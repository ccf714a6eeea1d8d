// y[g] = sum of the words of the vectors that workgroup g takes: those of every turn of 256 whose number is g modulo `groups`
//
//   x  [vectors]    vec4<u32>
//   y  [groups] u32, modulo 2^32
//
// grid: (groups, 1, 1), any number. Four vectors are loaded before the first is added.

struct Params {
  vectors: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

var<workgroup> sums: array<u32, 256>;

@compute @workgroup_size(256)
fn peak_read(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
) {
  let stride = 256u * params.groups;
  var sum = vec4<u32>();
  var i = 256u * group.x + lane;
  for (; i + 3u * stride < params.vectors; i += 4u * stride) {
    let a = x[i];
    let b = x[i + stride];
    let c = x[i + 2u * stride];
    let d = x[i + 3u * stride];
    sum += (a + b) + (c + d);
  }
  for (; i < params.vectors; i += stride) {
    sum += x[i];
  }
  sums[lane] = (sum.x + sum.y) + (sum.z + sum.w);
  workgroupBarrier();
  for (var half = 128u; half > 0u; half /= 2u) {
    if (lane < half) {
      sums[lane] += sums[lane + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    y[group.x] = sums[0];
  }
}
