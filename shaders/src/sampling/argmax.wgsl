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

// 32 logits of an invocation, on their way together: a row has a single workgroup, which waits for memory as often as it asks.
struct Logits {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
  e: vec4<u32>,
  f: vec4<u32>,
  g: vec4<u32>,
  h: vec4<u32>,
}

fn load_logits(first: u32, i: u32) -> Logits {
  return Logits(
    four_logits(first, i),
    four_logits(first, i + 4u * WORKGROUP),
    four_logits(first, i + 8u * WORKGROUP),
    four_logits(first, i + 12u * WORKGROUP),
    four_logits(first, i + 16u * WORKGROUP),
    four_logits(first, i + 20u * WORKGROUP),
    four_logits(first, i + 24u * WORKGROUP),
    four_logits(first, i + 28u * WORKGROUP),
  );
}

fn best_of_all(own: vec2<u32>, logits: Logits, i: u32) -> vec2<u32> {
  let a = best_of_four(own, logits.a, i);
  let b = best_of_four(a, logits.b, i + 4u * WORKGROUP);
  let c = best_of_four(b, logits.c, i + 8u * WORKGROUP);
  let d = best_of_four(c, logits.d, i + 12u * WORKGROUP);
  let e = best_of_four(d, logits.e, i + 16u * WORKGROUP);
  let f = best_of_four(e, logits.f, i + 20u * WORKGROUP);
  let g = best_of_four(f, logits.g, i + 24u * WORKGROUP);
  return best_of_four(g, logits.h, i + 28u * WORKGROUP);
}

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let first = group.x * params.vocab;
  var own = vec2<u32>(0u, lid);
  for (var i = lid; i < params.vocab; i += 32u * WORKGROUP) {
    own = best_of_all(own, load_logits(first, i), i);
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
