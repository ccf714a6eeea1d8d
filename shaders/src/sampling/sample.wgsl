// token[t] = one draw from softmax(logits[t, :] * inv_temp) over the candidates of the row:
//   top-k: keys of at least the k-th largest (top_k 0: all)
//   top-p: of these, the fewest largest whose share of softmax(logits) is at least top_p (1 or more: all)
//   min-p: of these, what has at least min_p times the probability of the largest (0: all)
// Equal logits at a threshold are all kept. NaN is no candidate, and -inf only where nothing is larger. The draw is the first
// index whose running sum of weights, in index order, exceeds u times their total; u has 24 bits and is a hash of the seed,
// the sequence and the position, so it does not depend on what else is in the batch.
//
//   logits    [rows, vocab] f32
//   row_info  [rows]        vec2<u32> (sequence, position)
//   token     [rows]        u32
//
// Counts are exact in f32: vocab < 2^24.
//
// grid: (rows, 1, 1), one workgroup per row.

const WORKGROUP: u32 = 256u;
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
}

// What decides about one logit of the row. Candidates have a key of at least `low`.
struct Row {
  first: u32,
  largest: f32,
  low: u32,
  high: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> token: array<u32>;

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

// Probability at a temperature, over that of the largest logit.
fn weight(row: Row, bits: u32, key: u32, inv_temp: f32) -> f32 {
  if (key == row.high && key != 0u) {
    return 1.0;
  }
  if (key <= KEY_MINUS_INFINITY) {
    return 0.0;
  }
  return exp((bitcast<f32>(bits) - row.largest) * inv_temp);
}

// Weight of index i for the draw: 0 where it is no candidate.
fn drawn_weight(row: Row, i: u32) -> f32 {
  let bits = logits[row.first + i];
  let key = order_key(bits);
  if (key < row.low || (params.min_p > 0.0 && weight(row, bits, key, 1.0) < params.min_p)) {
    return 0.0;
  }
  return weight(row, bits, key, params.inv_temp);
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

// Over logits with keys of at least `at`, each: how many they are, or their mass.
fn sum_from(row: Row, lid: u32, at: vec4<u32>, by_mass: bool) -> vec4<f32> {
  var own = vec4<f32>();
  for (var i = lid; i < params.vocab; i += WORKGROUP) {
    let bits = logits[row.first + i];
    let key = order_key(bits);
    if (key >= row.low && key != 0u) {
      var value = 1.0;
      if (by_mass) {
        value = weight(row, bits, key, 1.0);
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

// The index that u draws: the piece where the running sum passes, then the piece of that piece. Every invocation calls it.
fn draw(row: Row, lid: u32, u: f32) -> u32 {
  var start = 0u;
  var end = params.vocab;
  var remaining = 0.0;
  for (var size = params.vocab; size > 1u; size = (size + WORKGROUP - 1u) / WORKGROUP) {
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
    if (size == params.vocab) {
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

@compute @workgroup_size(WORKGROUP)
fn sample(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  var row: Row;
  row.first = group.x * params.vocab;
  var own = 0u;
  for (var i = lid; i < params.vocab; i += WORKGROUP) {
    own = max(own, order_key(logits[row.first + i]));
  }
  row.high = workgroup_max_key(lid, own);
  row.largest = bitcast<f32>(select(~row.high, row.high ^ SIGN, row.high >= SIGN));
  row.low = 0u;
  if (params.top_k > 0u && params.top_k < params.vocab) {
    row.low = threshold(row, lid, f32(params.top_k), false);
  }
  if (params.top_p < 1.0) {
    let total = sum_from(row, lid, vec4<u32>(), true).x;
    row.low = threshold(row, lid, params.top_p * total, true);
  }
  let counter = vec4<u32>(params.seed_lo, params.seed_hi, row_info[group.x].x, row_info[group.x].y);
  let u = f32(hash4(counter) >> 8u) / U_STEPS;
  let drawn = draw(row, lid, u);
  if (lid == 0u) {
    token[group.x] = drawn;
  }
}
