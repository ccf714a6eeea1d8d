// token = the index of the largest logit of row t, the lowest of equals, of what argmax_parts.wgsl found; then advance.wgsl
//
//   best      [rows, parts]       vec2<u32> (order key, index)
//   tokens    [rows]              u32
//   row_info  [rows]              vec2<u32> (sequence, position), a sequence once
//   history   [sequences, window] u32
//
// grid: (rows, 1, 1), one workgroup per row.

const WORKGROUP: u32 = 64u;

struct Params {
  rows: u32,
  parts: u32,
  window: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> row_info: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> history: array<u32>;

var<workgroup> shared_best: array<vec2<u32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = group.x * params.parts;
  let last = params.parts - 1u;
  var own = best[first + min(lid, last)];
  // Four at a time, so that no load waits for the one before; the last one, seen again, changes nothing.
  for (var i = lid + WORKGROUP; i < params.parts; i += 4u * WORKGROUP) {
    let a = best[first + i];
    let b = best[first + min(i + WORKGROUP, last)];
    let c = best[first + min(i + 2u * WORKGROUP, last)];
    let d = best[first + min(i + 3u * WORKGROUP, last)];
    own = better(own, better(better(a, b), better(c, d)));
  }
  shared_best[lid] = own;
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      shared_best[lid] = better(shared_best[lid], shared_best[lid + half]);
    }
    workgroupBarrier();
  }
  if (lid == 0u) {
    advance(group.x, shared_best[0].y);
  }
}
