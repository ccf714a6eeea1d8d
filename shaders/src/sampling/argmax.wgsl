// token[t] = the index of the largest logits[t, :]; the lowest of equals; NaN is below everything
//
//   logits  [rows, vocab] f32
//   token   [rows]        u32
//
// grid: (rows, 1, 1), one workgroup per row.

const WORKGROUP: u32 = 256u;

struct Params {
  rows: u32,
  vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> token: array<u32>;

// (key, index) of each invocation's best.
var<workgroup> best: array<vec2<u32>, WORKGROUP>;

fn better(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return select(b, a, a.x > b.x || (a.x == b.x && a.y < b.y));
}

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = group.x * params.vocab;
  var own = vec2<u32>(0u, lid);
  for (var i = lid; i < params.vocab; i += WORKGROUP) {
    own = better(own, vec2<u32>(order_key(logits[first + i]), i));
  }
  best[lid] = own;
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      best[lid] = better(best[lid], best[lid + half]);
    }
    workgroupBarrier();
  }
  if (lid == 0u) {
    token[group.x] = best[0].y;
  }
}
