// rope.wgsl, kv_append.wgsl over pools_f16.wgsl, and paged_attention.wgsl in one dispatch, for rows of one sequence each: rotates
// the q and k heads of a row, rounds its new key and value to halves and appends them, and attends to them and to what the
// pools have. The orders of operations are those of the three.
//
//   qkv             [rows, stride]          f32, before rope; it is not written
//   rope_table      [positions, half] vec2<f32>  (cos, sin), half = head_dim / 2
//   k_pool, v_pool  [pages, kv_heads] blocks  pools_f16.wgsl
//
// head_dim is a multiple of 8, and at most MOST_HEAD_DIM. A team of 64 invocations has a page at a time: an invocation a key of it for the
// score, then a pair of features for the sum. What the new key's place in the pools holds is not read: another workgroup may write it.
// Scores pass through workgroup memory before exp, and each invocation of a team adds the 64 weights itself, as the tree of
// pairwise halving does.
// What follows is shared by the rope_attention_* kernels.

const TEAM: u32 = 64u;
const TEAMS: u32 = 4u;
const MOST_HEAD_DIM: u32 = 128u;
// vec4s of a key of MOST_HEAD_DIM halves.
const KEY_VECS: u32 = 16u;
// Values that are loaded at a time.
const BATCH: u32 = 16u;

@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> k_pool: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> v_pool: array<u32>;

var<workgroup> info: vec2<u32>;
// The row's query, then its new key.
var<workgroup> rotated: array<f32, 2u * MOST_HEAD_DIM>;
// Two halves in each.
var<workgroup> new_k: array<u32, TEAM>;
var<workgroup> new_v: array<u32, TEAM>;
// Of each team: the scores of its page, and the weights p.
var<workgroup> scores: array<f32, TEAMS * TEAM>;
var<workgroup> weights: array<f32, TEAMS * TEAM>;

// What a page gives: its maximum, the sum of its weights, and the invocation's pair of features.
struct Partial {
  m: f32,
  l: f32,
  o: vec2<f32>,
}

// Halves of features i and i + 1 of `rotated`.
fn rotated_halves(i: u32) -> u32 {
  return half_bits(bitcast<u32>(rotated[i])) | (half_bits(bitcast<u32>(rotated[i + 1u])) << 16u);
}

// The row's query and new key after rope, and its new key and value as halves. Every invocation calls it.
fn rotate(row: u32, head: u32, kv_head: u32, position: u32, lid: u32) {
  let half = params.head_dim / 2u;
  let i = lid % TEAM;
  let team = lid / TEAM;
  let first = row * params.stride;
  if (i < half && team < 2u) {
    let low = first + select(head, params.heads + kv_head, team == 1u) * params.head_dim + i;
    let turn = rope_table[position * half + i];
    let a = qkv[low];
    let b = qkv[low + half];
    let at = team * MOST_HEAD_DIM + i;
    rotated[at] = fma(a, turn.x, -(b * turn.y));
    rotated[at + half] = fma(b, turn.x, a * turn.y);
  }
  if (i < half && team == 2u) {
    let at = first + (params.heads + params.kv_heads + kv_head) * params.head_dim + 2u * i;
    new_v[i] = half_bits(bitcast<u32>(qkv[at])) | (half_bits(bitcast<u32>(qkv[at + 1u])) << 16u);
  }
  workgroupBarrier();
  if (lid < half) {
    new_k[lid] = rotated_halves(MOST_HEAD_DIM + 2u * lid);
  }
  workgroupBarrier();
}

fn new_k_vec(i: u32) -> vec4<u32> {
  return vec4<u32>(new_k[4u * i], new_k[4u * i + 1u], new_k[4u * i + 2u], new_k[4u * i + 3u]);
}

// Writes the new key and value to their place in the pools.
fn append(block: u32, key: u32, lid: u32) {
  let words = params.head_dim / 2u;
  let at = block * PAGE_SIZE + key;
  if (lid < words / 4u) {
    k_pool[at * (words / 4u) + lid] = new_k_vec(lid);
  }
  if (lid / TEAM == 1u && lid % TEAM < words) {
    v_pool[at * words + lid % TEAM] = new_v[lid % TEAM];
  }
}

// Sum of the 64 weights of a team: stride 32, 16, 8, 4 of the tree in vec4s, then 2 and 1.
fn tree_sum(team: u32) -> f32 {
  var s = array<vec4<f32>, 8>();
  for (var i = 0u; i < 8u; i += 1u) {
    let at = team * TEAM + 4u * i;
    let high = at + 32u;
    s[i] = vec4<f32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u])
      + vec4<f32>(weights[high], weights[high + 1u], weights[high + 2u], weights[high + 3u]);
  }
  let a = s[0] + s[4];
  let b = s[1] + s[5];
  let c = s[2] + s[6];
  let d = s[3] + s[7];
  let e = (a + c) + (b + d);
  let f = e.xy + e.zw;
  return f.x + f.y;
}

// o_p over the keys first .. first + BATCH of a page, whose values are `v`.
fn add_values(o: vec2<f32>, v: array<u32, BATCH>, first: u32, begin: u32, end: u32, new_key: u32, team: u32, pair: u32) -> vec2<f32> {
  var o_p = o;
  for (var k = 0u; k < BATCH; k += 1u) {
    let j = first + k;
    let value = unpack2x16float(select(v[k], new_v[pair], j == new_key));
    o_p = select(o_p, fma(vec2<f32>(weights[team * TEAM + j]), value, o_p), j >= begin && j <= end);
  }
  return o_p;
}

// The team's page; `rotate_first`: before the scores. Every invocation of the workgroup calls it, those of a team past the last
// page with that page again.
fn attend_page(page: u32, row: u32, head: u32, kv_head: u32, row_at: vec2<u32>, first_key: u32, rotate_first: bool, lid: u32) -> Partial {
  let lane = lid % TEAM;
  let team = lid / TEAM;
  let position = row_at.y;
  let block = block_of(row_at.x * params.table_stride + page, kv_head);
  // Of the page that has the new key; elsewhere none.
  let new_key = select(PAGE_SIZE, position % PAGE_SIZE, page == position / PAGE_SIZE);
  let words = params.head_dim / 2u;
  let key_vecs = words / 4u;
  let pair = min(lane, words - 1u);

  // Loads of what comes later go ahead of everything that waits.
  let key_at = (block * PAGE_SIZE + (lane ^ select(0u, 1u, lane == new_key))) * key_vecs;
  var key = array<vec4<u32>, KEY_VECS>();
  for (var i = 0u; i < KEY_VECS; i += 1u) {
    if (i < key_vecs) {
      key[i] = k_pool[key_at + i];
    }
  }
  let value_at = block * PAGE_SIZE * words + pair;
  var v_0 = array<u32, BATCH>();
  for (var k = 0u; k < BATCH; k += 1u) {
    v_0[k] = v_pool[value_at + (k ^ select(0u, 1u, k == new_key)) * words];
  }
  var v_1 = array<u32, BATCH>();
  for (var k = 0u; k < BATCH; k += 1u) {
    let j = BATCH + k;
    v_1[k] = v_pool[value_at + (j ^ select(0u, 1u, j == new_key)) * words];
  }
  if (rotate_first) {
    rotate(row, head, kv_head, position, lid);
  }

  if (lane == new_key) {
    for (var i = 0u; i < KEY_VECS; i += 1u) {
      if (i < key_vecs) {
        key[i] = new_k_vec(i);
      }
    }
  }
  var dot = 0.0;
  for (var i = 0u; i < KEY_VECS; i += 1u) {
    if (i < key_vecs) {
      for (var c = 0u; c < 4u; c += 1u) {
        let k = unpack2x16float(key[i][c]);
        let d = 8u * i + 2u * c;
        dot = fma(rotated[d], k.x, dot);
        dot = fma(rotated[d + 1u], k.y, dot);
      }
    }
  }
  scores[lid] = params.scale * dot;
  workgroupBarrier();
  var v_2 = array<u32, BATCH>();
  for (var k = 0u; k < BATCH; k += 1u) {
    let j = 2u * BATCH + k;
    v_2[k] = v_pool[value_at + (j ^ select(0u, 1u, j == new_key)) * words];
  }
  var v_3 = array<u32, BATCH>();
  for (var k = 0u; k < BATCH; k += 1u) {
    let j = 3u * BATCH + k;
    v_3[k] = v_pool[value_at + (j ^ select(0u, 1u, j == new_key)) * words];
  }
  let begin = max(first_key, page * PAGE_SIZE) - page * PAGE_SIZE;
  let end = min(position - page * PAGE_SIZE, PAGE_SIZE - 1u);
  var m = LOWEST;
  for (var j = 0u; j < PAGE_SIZE; j += 1u) {
    m = max(m, select(LOWEST, scores[team * TEAM + j], j >= begin && j <= end));
  }
  weights[lid] = select(0.0, exp(scores[lid] - m), lane >= begin && lane <= end);
  workgroupBarrier();
  var o = vec2<f32>();
  o = add_values(o, v_0, 0u, begin, end, new_key, team, pair);
  o = add_values(o, v_1, BATCH, begin, end, new_key, team, pair);
  o = add_values(o, v_2, 2u * BATCH, begin, end, new_key, team, pair);
  o = add_values(o, v_3, 3u * BATCH, begin, end, new_key, team, pair);
  return Partial(m, tree_sum(team), o);
}
