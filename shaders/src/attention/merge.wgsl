// The end of attention whose pages were split over workgroups: the fold of paged_attention.wgsl over its partials,
//
//   the first slot sets (m, l, o) = (m_p, l_p, o_p); each further one is folded in:
//     M = max(m, m_p),  a = exp(m - M),  b = exp(m_p - M)
//     l = fma(l, a, l_p * b),  o[d] = fma(o[d], a, o_p[d] * b),  m = M
//   y[t, h, d] = o[d] / l
//
//   row_info  [rows]                              vec2<u32> (sequence, position)
//   partials  [rows, heads, slots, head_dim + 2]  f32, of rope_attention_split.wgsl
//
// slots is what the length of `partials` says. head_dim is even, and at most 128.
// What follows is shared by the attention_merge* kernels.
//
// grid: (heads, rows, 1), one workgroup of 128 per head of a row; an invocation has a feature, and the factors of a slot.

const PAGE_SIZE: u32 = 64u;
const LANES: u32 = 128u;
// Slots that are loaded while those before are folded.
const ROUND: u32 = 32u;
const CHUNK: u32 = 8u;

// The size of a head: params.head_dim.
override HEAD_DIM: u32 = 128u;

@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;

var<workgroup> slot_m: array<f32, LANES>;
// The maximum up to the last of CHUNK slots.
var<workgroup> chunk_m: array<f32, LANES / CHUNK>;
// Of each slot a, b and l_p * b, and the maximum up to it.
var<workgroup> factors: array<vec4<f32>, LANES>;
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

// A feature of the slots of a round. They stand written out, and move up from turn to turn of a loop.
struct Sums {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
  e: vec4<f32>,
  f: vec4<f32>,
  g: vec4<f32>,
  h: vec4<f32>,
}

// Of four slots from `slot`; of the last one past the end.
fn load_four(at: u32, slot: u32, last: u32) -> vec4<f32> {
  let words = HEAD_DIM + 2u;
  return vec4<f32>(
    partials[at + min(slot, last) * words],
    partials[at + min(slot + 1u, last) * words],
    partials[at + min(slot + 2u, last) * words],
    partials[at + min(slot + 3u, last) * words],
  );
}

fn load_sums(at: u32, slot: u32, last: u32) -> Sums {
  return Sums(
    load_four(at, slot, last),
    load_four(at, slot + 4u, last),
    load_four(at, slot + 8u, last),
    load_four(at, slot + 12u, last),
    load_four(at, slot + 16u, last),
    load_four(at, slot + 20u, last),
    load_four(at, slot + 24u, last),
    load_four(at, slot + 28u, last),
  );
}

// The sum of the weights, and a feature's weighted sum.
struct Folded {
  l: f32,
  o: f32,
}

// `state` and slot s of the round, if there is one. The very first slot has a = 0 and b = 1, and finds -0, to which any number may be added.
fn fold(state: Folded, s: u32, count: u32, o_p: f32) -> Folded {
  let by = factors[s];
  let there = s < count;
  return Folded(select(state.l, fma(state.l, by.x, by.z), there), select(state.o, fma(state.o, by.x, o_p * by.y), there));
}

fn fold_four(state: Folded, s: u32, count: u32, o_p: vec4<f32>) -> Folded {
  return fold(fold(fold(fold(state, s, count, o_p.x), s + 1u, count, o_p.y), s + 2u, count, o_p.z), s + 3u, count, o_p.w);
}

// All that the head writes, by so many invocations; `own` is what the invocation has ahead. One text of what stores a word.
fn store_all(row: u32, head: u32, lane: u32, lanes: u32, own: Output) {
  var next = own;
  for (var i = lane; i < outputs_of(head); i += lanes) {
    store_ahead(row, 0u, head, next);
    next = ahead(head, i + lanes);
  }
}

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lane: u32) {
  let slot_words = HEAD_DIM + 2u;
  let slots = arrayLength(&partials) / (params.count * params.heads * slot_words);
  let first = (row * params.heads + head) * slots * slot_words;
  let at = first + 2u + min(lane, HEAD_DIM - 1u);
  // Slots that were not written are loaded too, and not used.
  var next = load_sums(at, 0u, slots - 1u);
  let position = row_info[row].y;
  let used = position / PAGE_SIZE + 1u - first_visible(position) / PAGE_SIZE;
  var own_m = partials[first + min(lane, slots - 1u) * slot_words];
  var own_l = partials[first + min(lane, slots - 1u) * slot_words + 1u];
  let own_output = ahead(head, lane);

  var m = 0.0;
  var state = Folded(-0.0, -0.0);
  for (var begin = 0u; begin < used; begin += LANES) {
    let count = min(LANES, used - begin);
    slot_m[lane] = own_m;
    workgroupBarrier();
    // The maximum before the invocation's slot, and with it: no order of maxima makes another.
    var before = select(m, slot_m[0], begin == 0u);
    let chunk = lane / CHUNK * CHUNK;
    for (var i = 0u; i < CHUNK - 1u; i += 1u) {
      before = max(before, select(before, slot_m[chunk + i], chunk + i < lane));
    }
    if (lane % CHUNK == CHUNK - 1u) {
      chunk_m[lane / CHUNK] = max(before, own_m);
    }
    workgroupBarrier();
    for (var i = 0u; i < chunk && i < count; i += CHUNK) {
      before = max(before, chunk_m[i / CHUNK]);
    }
    let both = max(before, own_m);
    let b = exp(own_m - both);
    factors[lane] = vec4<f32>(select(exp(before - both), 0.0, begin + lane == 0u), b, own_l * b, both);
    workgroupBarrier();
    if (begin + LANES < used) {
      let slot = min(begin + LANES + lane, slots - 1u) * slot_words;
      own_m = partials[first + slot];
      own_l = partials[first + slot + 1u];
    }
    for (var round = 0u; round < count; round += ROUND) {
      var sums = next;
      if (begin + round + ROUND < used) {
        next = load_sums(at, begin + round + ROUND, slots - 1u);
      }
      for (var s = round; s < min(count, round + ROUND); s += 4u) {
        state = fold_four(state, s, count, sums.a);
        sums = Sums(sums.b, sums.c, sums.d, sums.e, sums.f, sums.g, sums.h, sums.h);
      }
    }
    m = factors[count - 1u].w;
    workgroupBarrier();   // before the next slots
  }
  output[lane] = state.o / state.l;
  workgroupBarrier();
  store_all(row, head, lane, LANES, own_output);
}
