// The end of attention whose pages were split over workgroups: the fold of paged_attention.wgsl over its partials,
//
//   the first slot sets (m, l, o) = (m_p, l_p, o_p); each further one is folded in:
//     M = max(m, m_p),  a = exp(m - M),  b = exp(m_p - M)
//     l = fma(l, a, l_p * b),  o[d] = fma(o[d], a, o_p[d] * b),  m = M
//   y[t, h, d] = o[d] / l
//
//   row_info  [rows]                              vec2<u32> (sequence, position)
//   partials  [rows, heads, slots, head_dim + 2]  f32, of rope_attention_f16_split.wgsl
//
// slots is what the length of `partials` says. head_dim is even, and at most 128.
// What follows is shared by the attention_merge* kernels.
//
// grid: (heads, rows, 1), one workgroup of 128 per head of a row; an invocation has a feature, and the factors of a slot.

const PAGE_SIZE: u32 = 64u;
const LANES: u32 = 128u;
// Partial sums that are loaded before they are folded.
const AHEAD: u32 = 8u;

@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;

var<workgroup> slot_m: array<f32, LANES>;
var<workgroup> slot_l: array<f32, LANES>;
// a and b of each slot.
var<workgroup> factors: array<vec2<f32>, LANES>;
var<workgroup> output: array<f32, LANES>;

// The first key that a row at that position sees.
fn first_visible(position: u32) -> u32 {
  if (params.window == 0u || position < params.window) {
    return 0u;
  }
  return position + 1u - params.window;
}

fn attended(r: u32, d: u32) -> f32 {
  return output[d];
}

// A feature of slots begin + s .. begin + s + 4; of the last one past the end.
fn load_slots(at: u32, begin: u32, s: u32, last: u32, slot_words: u32) -> vec4<f32> {
  return vec4<f32>(
    partials[at + (begin + min(s, last)) * slot_words],
    partials[at + (begin + min(s + 1u, last)) * slot_words],
    partials[at + (begin + min(s + 2u, last)) * slot_words],
    partials[at + (begin + min(s + 3u, last)) * slot_words],
  );
}

// The sum of the weights, and a feature's weighted sum.
struct Folded {
  l: f32,
  o: f32,
}

// `state` and slot begin + s, if there is one.
fn fold(state: Folded, s: u32, count: u32, o_p: f32, begin: u32) -> Folded {
  if (s >= count) {
    return state;
  }
  let l_p = slot_l[s];
  if (begin + s == 0u) {
    return Folded(l_p, o_p);
  }
  let by = factors[s];
  return Folded(fma(state.l, by.x, l_p * by.y), fma(state.o, by.x, o_p * by.y));
}

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lane: u32) {
  let slot_words = params.head_dim + 2u;
  let slots = arrayLength(&partials) / (params.count * params.heads * slot_words);
  let first = (row * params.heads + head) * slots * slot_words;
  let position = row_info[row].y;
  let used = position / PAGE_SIZE + 1u - first_visible(position) / PAGE_SIZE;
  let d = min(lane, params.head_dim - 1u);
  let own_output = ahead(head, lane);

  var m = 0.0;
  var state = Folded();
  for (var begin = 0u; begin < used; begin += LANES) {
    let count = min(LANES, used - begin);
    if (lane < count) {
      slot_m[lane] = partials[first + (begin + lane) * slot_words];
      slot_l[lane] = partials[first + (begin + lane) * slot_words + 1u];
    }
    workgroupBarrier();
    // The maximum before the invocation's slot, and with it: no order of maxima makes another.
    var before = select(m, slot_m[0], begin == 0u);
    for (var i = 0u; i < min(lane, count); i += 1u) {
      before = max(before, slot_m[i]);
    }
    if (lane < count) {
      let both = max(before, slot_m[lane]);
      factors[lane] = vec2<f32>(exp(before - both), exp(slot_m[lane] - both));
    }
    workgroupBarrier();
    for (var s = 0u; s < count; s += AHEAD) {
      let at = first + 2u + d;
      let last = used - 1u - begin;
      let a = load_slots(at, begin, s, last, slot_words);
      let b = load_slots(at, begin, s + 4u, last, slot_words);
      state = fold(state, s, count, a.x, begin);
      state = fold(state, s + 1u, count, a.y, begin);
      state = fold(state, s + 2u, count, a.z, begin);
      state = fold(state, s + 3u, count, a.w, begin);
      state = fold(state, s + 4u, count, b.x, begin);
      state = fold(state, s + 5u, count, b.y, begin);
      state = fold(state, s + 6u, count, b.z, begin);
      state = fold(state, s + 7u, count, b.w, begin);
    }
    for (var i = 0u; i < count; i += 1u) {
      m = select(max(m, slot_m[i]), slot_m[i], begin + i == 0u);
    }
    workgroupBarrier();   // before the next slots
  }
  output[lane] = state.o / state.l;
  workgroupBarrier();
  let outputs = outputs_of(head);
  if (lane < outputs) {
    store_ahead(row, 0u, head, own_output);
  }
  for (var i = lane + LANES; i < outputs; i += LANES) {
    store(row, 0u, head, i);
  }
}
