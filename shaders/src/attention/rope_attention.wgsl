// rope.wgsl, kv_append.wgsl over pools_f16.wgsl, and paged_attention.wgsl in one dispatch, for rows of one sequence each: rotates
// the q and k heads of a row, rounds its new key and value to halves and appends them, and attends to them and to what the
// pools have. The orders of operations are those of the three.
//
//   qkv             [rows, stride]          f32, before rope; it is not written
//   rope_table      [positions, half] vec2<f32>  (cos, sin), half = head_dim / 2
//   k_pool, v_pool  [pages, kv_heads] blocks  pools_f16.wgsl
//
// head_dim is a multiple of 8, and at most MOST_HEAD_DIM. A team of 64 invocations has a page at a time. Its keys, then its values are loaded by
// neighbours from neighbouring places, and pass through workgroup memory on the way to the invocation that has a key for its score, or a
// pair of features for their sums. What the new key's place in the pools holds is not read: another workgroup may write it.
// Scores pass through workgroup memory before exp.
//
// The size of a head is a constant, and parts of the text stand once: a layer's kernels are about as much text as a processor keeps.
// What follows is shared by the rope_attention_* kernels. Each declares TEAMS and Of, what it has of each query head that a team serves.

// 1: keys and values are loaded when it is their turn, in fewer registers.
override FEW_REGISTERS: u32 = 0u;

const TEAM: u32 = 64u;
const MOST_HEAD_DIM: u32 = 128u;
// Features of the keys that are staged at once, and keys whose values are.
const TURN_FEATURES: u32 = 32u;
const TURN_KEYS: u32 = 16u;
// vec4s of a team's stage: 64 keys of 4, or 16 values of 16.
const STAGE: u32 = 256u;
const FIRSTS: u32 = 16u;

// The size of a head: params.head_dim.
override HEAD_DIM: u32 = 128u;

@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> k_pool: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> v_pool: array<vec4<u32>>;

// The row's query, then its new key, after rope.
var<workgroup> query: array<Of, MOST_HEAD_DIM>;
var<workgroup> rotated_k: array<f32, MOST_HEAD_DIM>;
// Halves of the new key, then of the new value, two in each.
var<workgroup> new_words: array<u32, 2u * TEAM>;
var<workgroup> stage: array<vec4<u32>, TEAMS * STAGE>;
// Of each team: the scores of its page, LOWEST those of hidden keys, and the weights p.
var<workgroup> scores: array<Of, TEAMS * TEAM>;
var<workgroup> weights: array<Of, TEAMS * TEAM>;
// What four of those come to, 16 keys apart.
var<workgroup> firsts: array<Of, TEAMS * FIRSTS>;

// A pair of features.
struct Pair {
  a: Of,
  b: Of,
}

// What a page gives: its maximum, the sum of its weights, and the invocation's pair of features.
struct Partial {
  m: Of,
  l: Of,
  o: Pair,
}

// Of keys or values, what an invocation loads for a turn.
struct Load {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}

// Features i and i + half of the row's new key, and the pair 2i of its new value.
struct New {
  a: f32,
  b: f32,
  value: vec2<f32>,
}

fn load_new(row: u32, kv_head: u32, i: u32) -> New {
  let half = HEAD_DIM / 2u;
  let key = row * params.stride + (params.heads + kv_head) * HEAD_DIM + i;
  let value = row * params.stride + (params.heads + params.kv_heads + kv_head) * HEAD_DIM + 2u * i;
  return New(qkv[key], qkv[key + half], vec2<f32>(qkv[value], qkv[value + 1u]));
}

fn two_halves(a: f32, b: f32) -> u32 {
  return half_bits(bitcast<u32>(a)) | (half_bits(bitcast<u32>(b)) << 16u);
}

// The query after rope: features i and i + half by invocation i.
fn rotate_query(a: Of, b: Of, turn: vec2<f32>, i: u32) {
  query[i] = fma(a, Of(turn.x), -(b * turn.y));
  query[i + HEAD_DIM / 2u] = fma(b, Of(turn.x), a * turn.y);
}

// The new key after rope and the new value, as halves. Every invocation of the workgroup calls it.
fn make_new(own: New, turn: vec2<f32>, lid: u32) {
  let half = HEAD_DIM / 2u;
  if (lid < half) {
    rotated_k[lid] = fma(own.a, turn.x, -(own.b * turn.y));
    rotated_k[lid + half] = fma(own.b, turn.x, own.a * turn.y);
  }
  workgroupBarrier();
  if (lid < half) {
    new_words[lid] = two_halves(rotated_k[2u * lid], rotated_k[2u * lid + 1u]);
    new_words[TEAM + lid] = two_halves(own.value.x, own.value.y);
  }
  workgroupBarrier();
}

// Vec4 i of the new key, of the value from TEAM / 4 on.
fn new_vec(i: u32) -> vec4<u32> {
  return vec4<u32>(new_words[4u * i], new_words[4u * i + 1u], new_words[4u * i + 2u], new_words[4u * i + 3u]);
}

// Writes the new key and value to their place in the pools.
fn append(block: u32, key: u32, lid: u32) {
  if (lid < HEAD_DIM / 8u) {
    let at = (block * PAGE_SIZE + key) * (HEAD_DIM / 8u) + lid;
    k_pool[at] = new_vec(lid);
    v_pool[at] = new_vec(TEAM / 4u + lid);
  }
}

// A team's page.
struct Page {
  // Vec4 of key 0 in the pools.
  first: u32,
  // The new key; PAGE_SIZE where it is in another page.
  new_key: u32,
  // Visible keys.
  begin: u32,
  end: u32,
  // The last of them that the pools have.
  last: u32,
}

fn page_of(page: u32, block: u32, position: u32, first_key: u32) -> Page {
  let has_new = page == position / PAGE_SIZE;
  let end = min(position - page * PAGE_SIZE, PAGE_SIZE - 1u);
  return Page(
    block * PAGE_SIZE * (HEAD_DIM / 8u),
    select(PAGE_SIZE, end, has_new),
    max(first_key, page * PAGE_SIZE) - page * PAGE_SIZE,
    end,
    select(end, max(end, 1u) - 1u, has_new),
  );
}

// The keys of which an invocation loads something, the same in each turn: four neighbours have 32 features of one.
fn loaded_keys(lane: u32) -> vec4<u32> {
  return vec4<u32>(lane / 4u) + vec4<u32>(0u, 16u, 32u, 48u);
}

fn load_keys(page: Page, turn: u32, lane: u32) -> Load {
  let keys = loaded_keys(lane);
  let there = keys ^ select(vec4<u32>(), vec4<u32>(1u), keys == vec4<u32>(page.new_key));
  let at = vec4<u32>(page.first + min(4u * turn + lane % 4u, HEAD_DIM / 8u - 1u)) + there * (HEAD_DIM / 8u);
  return Load(k_pool[at.x], k_pool[at.y], k_pool[at.z], k_pool[at.w]);
}

// Of the values of a turn's keys, vec4 n. A hidden key's is that of a visible one: its weight is 0.
fn load_value(page: Page, turn: u32, n: u32) -> vec4<u32> {
  let vecs = HEAD_DIM / 8u;
  let key = clamp(TURN_KEYS * turn + n / vecs, page.begin, page.last);
  return v_pool[page.first + key * vecs + n % vecs];
}

fn load_values(page: Page, turn: u32, lane: u32) -> Load {
  var load = Load();
  if (page.begin == page.new_key) {
    return load;   // no other is visible
  }
  load.a = load_value(page, turn, lane);
  if (HEAD_DIM > 32u) {
    load.b = load_value(page, turn, lane + 64u);
  }
  if (HEAD_DIM > 64u) {
    load.c = load_value(page, turn, lane + 128u);
  }
  if (HEAD_DIM > 96u) {
    load.d = load_value(page, turn, lane + 192u);
  }
  return load;
}

// The chain of q . k over eight features from d.
fn add_vec(dot: Of, key: vec4<u32>, d: u32) -> Of {
  let k_0 = unpack2x16float(key.x);
  let k_1 = unpack2x16float(key.y);
  let k_2 = unpack2x16float(key.z);
  let k_3 = unpack2x16float(key.w);
  var sum = fma(query[d], Of(k_0.x), dot);
  sum = fma(query[d + 1u], Of(k_0.y), sum);
  sum = fma(query[d + 2u], Of(k_1.x), sum);
  sum = fma(query[d + 3u], Of(k_1.y), sum);
  sum = fma(query[d + 4u], Of(k_2.x), sum);
  sum = fma(query[d + 5u], Of(k_2.y), sum);
  sum = fma(query[d + 6u], Of(k_3.x), sum);
  return fma(query[d + 7u], Of(k_3.y), sum);
}

// Whether a turn has features from d on.
fn has_features(d: u32) -> bool {
  return HEAD_DIM % TURN_FEATURES == 0u || d < HEAD_DIM;
}

// The same over the features of a turn from d, of the invocation's key in the stage: place 4 * key + vec, the vec by exclusive or with
// two bits of the key, against bank conflicts.
fn add_key(dot: Of, team: u32, lane: u32, d: u32) -> Of {
  let at = team * STAGE + 4u * lane;
  let turned = (lane >> 1u) & 3u;
  var sum = add_vec(dot, stage[at + turned], d);
  if (has_features(d + 8u)) {
    sum = add_vec(sum, stage[at + (turned ^ 1u)], d + 8u);
  }
  if (has_features(d + 16u)) {
    sum = add_vec(sum, stage[at + (turned ^ 2u)], d + 16u);
  }
  if (has_features(d + 24u)) {
    sum = add_vec(sum, stage[at + (turned ^ 3u)], d + 24u);
  }
  return sum;
}

// The new key takes its place in the stage: whoever loaded something else for that place overwrites it.
fn put_keys(load: Load, new_key: u32, turn: u32, team: u32, lane: u32) {
  let at = team * STAGE + (lane & 60u) + ((lane & 3u) ^ ((lane >> 3u) & 3u));
  stage[at] = load.a;
  stage[at + 64u] = load.b;
  stage[at + 128u] = load.c;
  stage[at + 192u] = load.d;
  if (new_key < PAGE_SIZE && new_key % 16u == lane / 4u) {
    stage[at + new_key / 16u * 64u] = new_vec(min(4u * turn + lane % 4u, HEAD_DIM / 8u - 1u));
  }
}

// The same of values, place key * vecs + vec of a turn's.
fn put_values(load: Load, new_key: u32, turn: u32, team: u32, lane: u32) {
  let at = team * STAGE + lane;
  stage[at] = load.a;
  if (HEAD_DIM > 32u) {
    stage[at + 64u] = load.b;
  }
  if (HEAD_DIM > 64u) {
    stage[at + 128u] = load.c;
  }
  if (HEAD_DIM > 96u) {
    stage[at + 192u] = load.d;
  }
  let place = new_key % TURN_KEYS * (HEAD_DIM / 8u);
  let vec = (lane - place) % 64u;
  if (new_key / TURN_KEYS == turn && vec < HEAD_DIM / 8u) {
    stage[team * STAGE + place + vec] = new_vec(TEAM / 4u + vec);
  }
}

// The chain of o_p over the keys of a turn, for key `first` + k of the team's weights.
fn add_value(o: Pair, team: u32, pair: u32, first: u32, k: u32) -> Pair {
  let value = unpack2x16float(stage[team * STAGE + k * (HEAD_DIM / 8u) + pair / 4u][pair % 4u]);
  let p = weights[first + k];
  return Pair(fma(p, Of(value.x), o.a), fma(p, Of(value.y), o.b));
}

fn add_four(o: Pair, team: u32, pair: u32, first: u32, k: u32) -> Pair {
  let o_1 = add_value(o, team, pair, first, k);
  let o_2 = add_value(o_1, team, pair, first, k + 1u);
  let o_3 = add_value(o_2, team, pair, first, k + 2u);
  return add_value(o_3, team, pair, first, k + 3u);
}

// Largest of the sixteen of a team.
fn max_of_firsts(team: u32) -> Of {
  let at = FIRSTS * team;
  let m_0 = max(max(firsts[at], firsts[at + 1u]), max(firsts[at + 2u], firsts[at + 3u]));
  let m_1 = max(max(firsts[at + 4u], firsts[at + 5u]), max(firsts[at + 6u], firsts[at + 7u]));
  let m_2 = max(max(firsts[at + 8u], firsts[at + 9u]), max(firsts[at + 10u], firsts[at + 11u]));
  let m_3 = max(max(firsts[at + 12u], firsts[at + 13u]), max(firsts[at + 14u], firsts[at + 15u]));
  return max(max(m_0, m_1), max(m_2, m_3));
}

fn sum_of_two(at: u32) -> Of {
  return firsts[at] + firsts[at + 8u];
}

// Their sum by pairwise halving.
fn sum_of_firsts(team: u32) -> Of {
  let at = FIRSTS * team;
  let even = (sum_of_two(at) + sum_of_two(at + 4u)) + (sum_of_two(at + 2u) + sum_of_two(at + 6u));
  let odd = (sum_of_two(at + 1u) + sum_of_two(at + 5u)) + (sum_of_two(at + 3u) + sum_of_two(at + 7u));
  return even + odd;
}

// The features of a turn of all keys. Every invocation of the workgroup calls it.
fn add_key_turn(dot: Of, load: Load, page: Page, turn: u32, team: u32, lane: u32) -> Of {
  let d = TURN_FEATURES * turn;
  if (d >= HEAD_DIM) {
    return dot;
  }
  var own = load;
  if (FEW_REGISTERS == 1u) {
    own = load_keys(page, turn, lane);
  }
  put_keys(own, page.new_key, turn, team, lane);
  workgroupBarrier();
  let sum = add_key(dot, team, lane, d);
  workgroupBarrier();   // before the next turn
  return sum;
}

// The keys of a turn, if one is not past `last`, of all features. Every invocation of the workgroup calls it.
fn add_value_turn(o: Pair, load: Load, page: Page, turn: u32, last: u32, team: u32, lane: u32) -> Pair {
  if (TURN_KEYS * turn > last) {
    return o;
  }
  var own = load;
  if (FEW_REGISTERS == 1u) {
    own = load_values(page, turn, lane);
  }
  put_values(own, page.new_key, turn, team, lane);
  workgroupBarrier();
  let pair = min(lane, HEAD_DIM / 2u - 1u);
  let first = TEAM * team + TURN_KEYS * turn;
  let o_1 = add_four(o, team, pair, first, 0u);
  let o_2 = add_four(o_1, team, pair, first, 4u);
  let o_3 = add_four(o_2, team, pair, first, 8u);
  let sum = add_four(o_3, team, pair, first, 12u);
  workgroupBarrier();   // before the next turn
  return sum;
}

// What a team has on its way of a page before the query is there.
struct Ahead {
  keys_0: Load,
  keys_1: Load,
  keys_2: Load,
  keys_3: Load,
  values_0: Load,
  values_1: Load,
}

fn load_page(page: Page, lane: u32) -> Ahead {
  var ahead = Ahead();
  if (FEW_REGISTERS == 1u) {
    return ahead;
  }
  ahead.keys_0 = load_keys(page, 0u, lane);
  if (HEAD_DIM > 32u) {
    ahead.keys_1 = load_keys(page, 1u, lane);
  }
  if (HEAD_DIM > 64u) {
    ahead.keys_2 = load_keys(page, 2u, lane);
  }
  if (HEAD_DIM > 96u) {
    ahead.keys_3 = load_keys(page, 3u, lane);
  }
  ahead.values_0 = load_values(page, 0u, lane);
  ahead.values_1 = load_values(page, 1u, lane);
  return ahead;
}

// Every invocation of the workgroup calls it, those of a team without a page too, which have nothing to do. `last` is the last visible key of any
// team's page. The sum of the weights is that of the first invocation of a team.
fn attend_page(page: Page, has_page: bool, ahead: Ahead, last: u32, team: u32, lane: u32) -> Partial {
  let lid = team * TEAM + lane;
  var dot = add_key_turn(Of(), ahead.keys_0, page, 0u, team, lane);
  dot = add_key_turn(dot, ahead.keys_1, page, 1u, team, lane);
  dot = add_key_turn(dot, ahead.keys_2, page, 2u, team, lane);
  dot = add_key_turn(dot, ahead.keys_3, page, 3u, team, lane);
  var values_2 = Load();
  var values_3 = Load();
  if (has_page && FEW_REGISTERS == 0u) {
    values_2 = load_values(page, 2u, lane);
    values_3 = load_values(page, 3u, lane);
  }
  let visible = has_page && lane >= page.begin && lane <= page.end;
  scores[lid] = select(Of(LOWEST), params.scale * dot, visible);
  workgroupBarrier();
  let first = TEAM * team;
  if (lane < FIRSTS) {
    let i = first + lane;
    firsts[FIRSTS * team + lane] = max(max(scores[i], scores[i + 16u]), max(scores[i + 32u], scores[i + 48u]));
  }
  workgroupBarrier();
  let m = max_of_firsts(team);
  weights[lid] = select(Of(), exp(scores[lid] - m), visible);
  var o = add_value_turn(Pair(), ahead.values_0, page, 0u, last, team, lane);
  o = add_value_turn(o, ahead.values_1, page, 1u, last, team, lane);
  o = add_value_turn(o, values_2, page, 2u, last, team, lane);
  o = add_value_turn(o, values_3, page, 3u, last, team, lane);
  if (lane < FIRSTS) {
    let i = first + lane;
    firsts[FIRSTS * team + lane] = (weights[i] + weights[i + 32u]) + (weights[i + 16u] + weights[i + 48u]);
  }
  workgroupBarrier();
  var l = Of();
  if (lane == 0u) {
    l = sum_of_firsts(team);
  }
  return Partial(m, l, o);
}
