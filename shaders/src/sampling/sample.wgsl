// token = one draw from softmax(logits[t, :] * inv_temp) over the candidates of row t; then advance.wgsl. Candidates:
//   top-k: keys of at least the k-th largest (top_k 0: all)
//   top-p: of these, the fewest largest whose share of softmax(logits) is at least top_p (1 or more: all)
//   min-p: of these, what has at least min_p times the probability of the largest (0: all)
// Equal logits at a threshold are all kept. NaN is no candidate, and -inf only where nothing is larger. The draw is the first
// index whose running sum of weights, in index order, exceeds u times their total; u has 24 bits and is a hash of the seed,
// the sequence and the position, so it does not depend on what else is in the batch.
//
//   logits    [rows, vocab]       f32
//   best      [rows, parts]       vec2<u32> (order key, index): argmax_parts.wgsl
//   tokens    [rows]              u32
//   row_info  [rows]              vec2<u32> (sequence, position), a sequence once
//   history   [sequences, window] u32
//
// Where top-k has a bound, the k-th largest of `best` is below no candidate: parts with less are not read, and what is left of the
// others is listed in workgroup memory, in the order of its indices, if it fits. Everything else then looks at the list.
//
// Counts are exact in f32: vocab < 2^24.
//
// grid: (rows, 1, 1), one workgroup per row.

const WORKGROUP: u32 = 256u;
// Logits of a part, one for an invocation.
const PART: u32 = 256u;
// Items of the list, four for an invocation.
const LISTED: u32 = 1024u;
// u is a multiple of 1 / U_STEPS below 1.
const U_STEPS: f32 = 16777216.0;

struct Params {
  rows: u32,
  vocab: u32,
  top_k: u32,
  top_p: f32,
  min_p: f32,
  inv_temp: f32,
  seed_lo: u32,
  seed_hi: u32,
  window: u32,
}

// What decides about one logit of the row. Candidates have a key of at least `low`; they are among `count` items, which are those of
// the list, or all logits.
struct Row {
  first: u32,
  largest: f32,
  low: u32,
  high: u32,
  is_listed: bool,
  count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> row_info: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> history: array<u32>;

// (order key, index)
var<workgroup> list: array<vec2<u32>, LISTED>;
var<workgroup> listed: atomic<u32>;
var<workgroup> listed_count: u32;
var<workgroup> keys: array<u32, WORKGROUP>;
var<workgroup> sums: array<vec4<f32>, WORKGROUP>;
var<workgroup> prefix: array<f32, WORKGROUP>;
var<workgroup> first_above: atomic<u32>;
var<workgroup> last_weighty: atomic<u32>;

// pcg4d (Jarzynski and Olano, 2020), one word of it.
fn hash4(counter: vec4<u32>) -> u32 {
  var v = counter * 1664525u + 1013904223u;
  v.x += v.y * v.w;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v.w += v.y * v.z;
  v ^= v >> vec4<u32>(16u);
  v.x += v.y * v.w;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v.w += v.y * v.z;
  return v.x;
}

// The logit that a key is of; 0 for both zeros.
fn logit_of(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key ^ SIGN, key >= SIGN));
}

// Probability at a temperature, over that of the largest logit.
fn weight(row: Row, key: u32, inv_temp: f32) -> f32 {
  if (key == row.high && key != 0u) {
    return 1.0;
  }
  if (key <= KEY_MINUS_INFINITY) {
    return 0.0;
  }
  return exp((logit_of(key) - row.largest) * inv_temp);
}

// The key of item i.
fn item(row: Row, i: u32) -> u32 {
  if (row.is_listed) {
    return list[i].x;
  }
  return order_key(logits[row.first + i]);
}

// Weight of item i for the draw: 0 where it is no candidate.
fn drawn_weight(row: Row, i: u32) -> f32 {
  let key = item(row, i);
  if (key < row.low || (params.min_p > 0.0 && weight(row, key, 1.0) < params.min_p)) {
    return 0.0;
  }
  return weight(row, key, params.inv_temp);
}

// The largest key over the workgroup. Every invocation calls it; every invocation gets the maximum.
fn workgroup_max_key(lid: u32, key: u32) -> u32 {
  keys[lid] = key;
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      keys[lid] = max(keys[lid], keys[lid + half]);
    }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&keys[0]);
}

// The sum over the workgroup. Every invocation calls it; every invocation gets the sum.
fn workgroup_sum4(lid: u32, value: vec4<f32>) -> vec4<f32> {
  sums[lid] = value;
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      sums[lid] += sums[lid + half];
    }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&sums[0]);
}

// Over items with keys of at least `at`, each: how many they are, or their mass.
fn sum_from(row: Row, lid: u32, at: vec4<u32>, by_mass: bool) -> vec4<f32> {
  var own = vec4<f32>();
  for (var i = lid; i < row.count; i += WORKGROUP) {
    let key = item(row, i);
    if (key >= row.low && key != 0u) {
      var value = 1.0;
      if (by_mass) {
        value = weight(row, key, 1.0);
      }
      own += select(vec4<f32>(), vec4<f32>(value), vec4<u32>(key) >= at);
    }
  }
  return workgroup_sum4(lid, own);
}

// A key from which on the candidates are the fewest largest whose count or mass reaches `enough`: bisection of the keys between
// row.low and row.high, two bits at a time. Every invocation of the workgroup calls it.
fn threshold(row: Row, lid: u32, enough: f32, by_mass: bool) -> u32 {
  let differ = row.low ^ row.high;
  if (differ == 0u) {
    return row.low;
  }
  var shift = firstLeadingBit(differ) & 30u;
  var key = row.high & ~((4u << shift) - 1u);
  loop {
    let sum = sum_from(row, lid, vec4<u32>(key) + (vec4<u32>(0u, 1u, 2u, 3u) << vec4<u32>(shift)), by_mass);
    let reached = select(vec4<u32>(), vec4<u32>(1u), sum >= vec4<f32>(enough));
    let digit = reached.y + reached.z + reached.w;
    key += digit << shift;
    // With exactly that many candidates, larger keys would only name the same ones.
    if (shift == 0u || (!by_mass && sum[digit] == enough)) {
      break;
    }
    shift -= 2u;
  }
  return min(key, row.high);
}

// The item that u draws: the piece where the running sum passes, then the piece of that piece. Every invocation calls it.
fn draw(row: Row, lid: u32, u: f32) -> u32 {
  var start = 0u;
  var end = row.count;
  var remaining = 0.0;
  for (var size = row.count; size > 1u; size = (size + WORKGROUP - 1u) / WORKGROUP) {
    let piece = (size + WORKGROUP - 1u) / WORKGROUP;
    var own = 0.0;
    for (var i = start + lid * piece; i < min(end, start + (lid + 1u) * piece); i += 1u) {
      own += drawn_weight(row, i);
    }
    prefix[lid] = own;
    if (lid == 0u) {
      atomicStore(&first_above, WORKGROUP);
      atomicStore(&last_weighty, 0u);
    }
    workgroupBarrier();
    for (var step = 1u; step < WORKGROUP; step *= 2u) {
      var running = prefix[lid];
      if (lid >= step) {
        running += prefix[lid - step];
      }
      workgroupBarrier();
      prefix[lid] = running;
      workgroupBarrier();
    }
    if (size == row.count) {
      remaining = u * prefix[WORKGROUP - 1u];
    }
    // A piece without weight is never taken, whatever the sums are rounded to.
    if (own > 0.0) {
      if (prefix[lid] > remaining) {
        atomicMin(&first_above, lid);
      }
      atomicMax(&last_weighty, lid);
    }
    workgroupBarrier();
    var taken = atomicLoad(&first_above);
    if (taken == WORKGROUP) {
      taken = atomicLoad(&last_weighty);
    }
    if (taken > 0u) {
      remaining -= prefix[taken - 1u];
    }
    start += taken * piece;
    end = min(end, start + piece);
    workgroupBarrier();
  }
  return start;
}

// How many were counted since the last call. Every invocation calls it; every invocation gets the number.
fn take_count(lid: u32) -> u32 {
  workgroupBarrier();
  if (lid == 0u) {
    listed_count = atomicExchange(&listed, 0u);
  }
  return workgroupUniformLoad(&listed_count);
}

// A key that is not above the top_k-th largest logit's: the top_k-th largest of the parts' best, of which there are as many. Every
// invocation calls it.
fn bound_of_top_k(row: Row, lid: u32, first_part: u32, parts: u32) -> u32 {
  for (var p = lid; p < parts; p += WORKGROUP) {
    list[p] = best[first_part + p];
  }
  workgroupBarrier();
  var of_parts = row;
  of_parts.is_listed = true;
  of_parts.count = parts;
  let key = threshold(of_parts, lid, f32(params.top_k), false);
  workgroupBarrier();
  return key;
}

// Notes logit `lid` of a part if it is a candidate, and counts it.
fn note(row: Row, lid: u32, part: u32, key: u32) {
  let i = part * PART + lid;
  if (i < params.vocab && key >= row.low && key != 0u) {
    let place = atomicAdd(&listed, 1u);
    if (place < LISTED) {
      list[place] = vec2<u32>(key, i);
    }
  }
}

fn key_in_part(row: Row, lid: u32, part: u32) -> u32 {
  return order_key(logits[row.first + min(part * PART + lid, params.vocab - 1u)]);
}

// Lists the logits with keys of at least row.low, in any order; says how many there are, more than LISTED where they do not fit.
// Every invocation calls it; every invocation gets the number.
fn list_candidates(row: Row, lid: u32, first_part: u32, parts: u32) -> u32 {
  for (var p = lid; p < parts; p += WORKGROUP) {
    let key = best[first_part + p].x;
    if (key >= row.low && key != 0u) {
      let place = atomicAdd(&listed, 1u);
      if (place < WORKGROUP) {
        keys[place] = p;
      }
    }
  }
  let live = take_count(lid);
  if (live > WORKGROUP) {
    return LISTED + 1u;
  }
  // Four parts at a time, so that no load waits for the one before.
  for (var l = 0u; l < live; l += 4u) {
    let last = live - 1u;
    let part = vec4<u32>(keys[l], keys[min(l + 1u, last)], keys[min(l + 2u, last)], keys[min(l + 3u, last)]);
    let key = vec4<u32>(
      key_in_part(row, lid, part.x),
      key_in_part(row, lid, part.y),
      key_in_part(row, lid, part.z),
      key_in_part(row, lid, part.w),
    );
    note(row, lid, part.x, key.x);
    if (l + 1u < live) {
      note(row, lid, part.y, key.y);
    }
    if (l + 2u < live) {
      note(row, lid, part.z, key.z);
    }
    if (l + 3u < live) {
      note(row, lid, part.w, key.w);
    }
  }
  return take_count(lid);
}

// The place of an index in the list's order.
fn rank(count: u32, index: u32) -> u32 {
  var lower = 0u;
  for (var i = 0u; i < count; i += 1u) {
    lower += u32(list[i].y < index);
  }
  return lower;
}

// Puts the list in the order of its indices: which invocation noted what first must not matter. Every invocation calls it.
fn sort_list(lid: u32, count: u32) {
  let last = count - 1u;
  let i = min(vec4<u32>(lid, lid + WORKGROUP, lid + 2u * WORKGROUP, lid + 3u * WORKGROUP), vec4<u32>(last));
  let a = list[i.x];
  let b = list[i.y];
  let c = list[i.z];
  let d = list[i.w];
  var ranks = vec4<u32>(rank(count, a.y), 0u, 0u, 0u);
  if (count > WORKGROUP) {
    ranks = vec4<u32>(ranks.x, rank(count, b.y), rank(count, c.y), rank(count, d.y));
  }
  workgroupBarrier();
  // Past the end they are the last one's again.
  list[ranks.x] = a;
  if (count > WORKGROUP) {
    list[ranks.y] = b;
    list[ranks.z] = c;
    list[ranks.w] = d;
  }
  workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
fn sample(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let parts = (params.vocab + PART - 1u) / PART;
  let first_part = group.x * parts;
  var row: Row;
  row.first = group.x * params.vocab;
  row.count = params.vocab;
  row.is_listed = false;
  var own = 0u;
  for (var p = lid; p < parts; p += WORKGROUP) {
    own = max(own, best[first_part + p].x);
  }
  row.high = workgroup_max_key(lid, own);
  row.largest = logit_of(row.high);
  row.low = 0u;
  if (params.top_k > 0u && params.top_k < params.vocab) {
    if (params.top_k <= parts && parts <= LISTED) {
      row.low = bound_of_top_k(row, lid, first_part, parts);
      let count = list_candidates(row, lid, first_part, parts);
      if (count > 0u && count <= LISTED) {
        sort_list(lid, count);
        row.is_listed = true;
        row.count = count;
      }
    }
    row.low = threshold(row, lid, f32(params.top_k), false);
  }
  if (params.top_p < 1.0) {
    let total = sum_from(row, lid, vec4<u32>(), true).x;
    row.low = threshold(row, lid, params.top_p * total, true);
  }
  let counter = vec4<u32>(params.seed_lo, params.seed_hi, row_info[group.x].x, row_info[group.x].y);
  let u = f32(hash4(counter) >> 8u) / U_STEPS;
  var drawn = draw(row, lid, u);
  if (row.is_listed) {
    drawn = list[drawn].y;
  }
  if (lid == 0u) {
    advance(group.x, drawn);
  }
}
