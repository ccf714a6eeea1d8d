// best[t, p] = (order key, index) of the largest of the logits[t, 256 p ..] of part p; the lowest index of equals; NaN has key 0
//
//   logits  [rows, vocab] f32
//   best    [rows, parts] vec2<u32>, parts = ceil(vocab / 256)
//
// grid: (parts, rows, 1), one workgroup per part.

const WORKGROUP: u32 = 64u;
const PART: u32 = 256u;

struct Params {
  rows: u32,
  vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> best: array<vec2<u32>>;

var<workgroup> shared_best: array<vec2<u32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn argmax_parts(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
) {
  let first = group.y * params.vocab;
  // The last logit, seen again past the end, changes nothing. Written out, so that no load waits for the one before.
  let place = vec4<u32>(PART * group.x + lid) + vec4<u32>(0u, WORKGROUP, 2u * WORKGROUP, 3u * WORKGROUP);
  let i = min(place, vec4<u32>(params.vocab - 1u));
  let bits = vec4<u32>(logits[first + i.x], logits[first + i.y], logits[first + i.z], logits[first + i.w]);
  let low = better(vec2<u32>(order_key(bits.x), i.x), vec2<u32>(order_key(bits.y), i.y));
  let high = better(vec2<u32>(order_key(bits.z), i.z), vec2<u32>(order_key(bits.w), i.w));
  shared_best[lid] = better(low, high);
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      shared_best[lid] = better(shared_best[lid], shared_best[lid + half]);
    }
    workgroupBarrier();
  }
  if (lid == 0u) {
    best[group.y * groups.x + group.x] = shared_best[0];
  }
}
