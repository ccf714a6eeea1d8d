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

// Logits i, i + WORKGROUP, ..; the last one past the end. Written out, so that no load waits for the one before.
fn four_logits(first: u32, i: u32) -> vec4<u32> {
  let last = params.vocab - 1u;
  return vec4<u32>(
    logits[first + min(i, last)],
    logits[first + min(i + WORKGROUP, last)],
    logits[first + min(i + 2u * WORKGROUP, last)],
    logits[first + min(i + 3u * WORKGROUP, last)],
  );
}

// The last logit, seen again past the end, changes nothing.
fn best_of_four(own: vec2<u32>, bits: vec4<u32>, i: u32) -> vec2<u32> {
  let last = params.vocab - 1u;
  let a = better(own, vec2<u32>(order_key(bits.x), min(i, last)));
  let b = better(a, vec2<u32>(order_key(bits.y), min(i + WORKGROUP, last)));
  let c = better(b, vec2<u32>(order_key(bits.z), min(i + 2u * WORKGROUP, last)));
  return better(c, vec2<u32>(order_key(bits.w), min(i + 3u * WORKGROUP, last)));
}

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = group.x * params.vocab;
  var own = vec2<u32>(0u, lid);
  for (var i = lid; i < params.vocab; i += 8u * WORKGROUP) {
    let low = four_logits(first, i);
    let high = four_logits(first, i + 4u * WORKGROUP);
    own = best_of_four(own, low, i);
    own = best_of_four(own, high, i + 4u * WORKGROUP);
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
