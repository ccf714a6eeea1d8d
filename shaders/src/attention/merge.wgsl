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

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lane: u32) {
  let slot_words = params.head_dim + 2u;
  let slots = arrayLength(&partials) / (params.count * params.heads * slot_words);
  let first = (row * params.heads + head) * slots * slot_words;
  let position = row_info[row].y;
  let used = position / PAGE_SIZE + 1u - first_visible(position) / PAGE_SIZE;
  let d = min(lane, params.head_dim - 1u);

  var m = 0.0;
  var l = 0.0;
  var o = 0.0;
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
      var o_p = array<f32, AHEAD>();
      for (var k = 0u; k < AHEAD; k += 1u) {
        o_p[k] = partials[first + min(begin + s + k, used - 1u) * slot_words + 2u + d];
      }
      for (var k = 0u; k < AHEAD; k += 1u) {
        if (s + k < count) {
          let by = factors[s + k];
          let l_p = slot_l[s + k];
          let is_first = begin + s + k == 0u;
          l = select(fma(l, by.x, l_p * by.y), l_p, is_first);
          o = select(fma(o, by.x, o_p[k] * by.y), o_p[k], is_first);
        }
      }
    }
    for (var i = 0u; i < count; i += 1u) {
      m = select(max(m, slot_m[i]), slot_m[i], begin + i == 0u);
    }
    workgroupBarrier();   // before the next slots
  }
  output[lane] = o / l;
  workgroupBarrier();
  let outputs = outputs_of(head);
  for (var i = lane; i < outputs; i += LANES) {
    store(row, 0u, head, i);
  }
}
