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

// 1: values are loaded when it is their turn, in fewer registers.
override FEW_REGISTERS: u32 = 0u;

const TEAM: u32 = 64u;
const TEAMS: u32 = 4u;
const MOST_HEAD_DIM: u32 = 128u;
// Values, or vec4s of a key, that are loaded and used together. They stand written out: drivers leave loops over arrays as they are, and
// then each load waits for the one before.
const BATCH: u32 = 16u;

@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> k_pool: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> v_pool: array<u32>;

// The row's query, then its new key.
var<workgroup> rotated: array<f32, 2u * MOST_HEAD_DIM>;
// Two halves in each.
var<workgroup> new_k: array<u32, TEAM>;
var<workgroup> new_v: array<u32, TEAM>;
// Of each team: the scores of its page, LOWEST those of hidden keys, and the weights p.
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

// What an invocation rotates: two features of the query (team 0) or of the new key (team 1), half a head apart. Or two neighbouring ones
// of the new value (team 2), as they are.
struct Turn {
  a: f32,
  b: f32,
  turn: vec2<f32>,
}

fn load_turn(row: u32, head: u32, kv_head: u32, position: u32, lid: u32) -> Turn {
  let half = params.head_dim / 2u;
  let i = min(lid % TEAM, half - 1u);
  let team = lid / TEAM;
  let is_value = team >= 2u;
  let of_value = params.heads + params.kv_heads + kv_head;
  let first = row * params.stride + select(select(head, params.heads + kv_head, team == 1u), of_value, is_value) * params.head_dim;
  let low = first + select(i, 2u * i, is_value);
  return Turn(qkv[low], qkv[low + select(half, 1u, is_value)], rope_table[position * half + i]);
}

// The row's query and new key after rope, and its new key and value as halves. Every invocation calls it.
fn rotate(own: Turn, lid: u32) {
  let half = params.head_dim / 2u;
  let i = lid % TEAM;
  let team = lid / TEAM;
  if (i < half && team < 2u) {
    let at = team * MOST_HEAD_DIM + i;
    rotated[at] = fma(own.a, own.turn.x, -(own.b * own.turn.y));
    rotated[at + half] = fma(own.b, own.turn.x, own.a * own.turn.y);
  }
  if (i < half && team == 2u) {
    new_v[i] = half_bits(bitcast<u32>(own.a)) | (half_bits(bitcast<u32>(own.b)) << 16u);
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

// Four words of a team's scores or weights would be a vec4; they are read one by one, since others write them so.
fn four_scores(at: u32) -> vec4<f32> {
  return vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
}

fn four_weights(at: u32) -> vec4<f32> {
  return vec4<f32>(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
}

// Largest of the 64 scores of a team.
fn team_max(team: u32) -> f32 {
  let at = team * TEAM;
  let a = max(max(four_scores(at), four_scores(at + 4u)), max(four_scores(at + 8u), four_scores(at + 12u)));
  let b = max(max(four_scores(at + 16u), four_scores(at + 20u)), max(four_scores(at + 24u), four_scores(at + 28u)));
  let c = max(max(four_scores(at + 32u), four_scores(at + 36u)), max(four_scores(at + 40u), four_scores(at + 44u)));
  let d = max(max(four_scores(at + 48u), four_scores(at + 52u)), max(four_scores(at + 56u), four_scores(at + 60u)));
  let e = max(max(a, b), max(c, d));
  return max(max(e.x, e.y), max(e.z, e.w));
}

// Sum of the 64 weights of a team: strides 32, 16, 8, 4 of the tree in vec4s, then 2 and 1.
fn tree_sum(team: u32) -> f32 {
  let at = team * TEAM;
  let s_0 = four_weights(at) + four_weights(at + 32u);
  let s_1 = four_weights(at + 4u) + four_weights(at + 36u);
  let s_2 = four_weights(at + 8u) + four_weights(at + 40u);
  let s_3 = four_weights(at + 12u) + four_weights(at + 44u);
  let s_4 = four_weights(at + 16u) + four_weights(at + 48u);
  let s_5 = four_weights(at + 20u) + four_weights(at + 52u);
  let s_6 = four_weights(at + 24u) + four_weights(at + 56u);
  let s_7 = four_weights(at + 28u) + four_weights(at + 60u);
  let e = ((s_0 + s_4) + (s_2 + s_6)) + ((s_1 + s_5) + (s_3 + s_7));
  let f = e.xy + e.zw;
  return f.x + f.y;
}

// Four vec4s of a key, or sixteen values of a pair of features.
struct Batch {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}

// Vec4s first .. first + 4 of a key; the last one again past the end.
fn load_key(at: u32, first: u32, last: u32) -> Batch {
  return Batch(
    k_pool[at + min(first, last)],
    k_pool[at + min(first + 1u, last)],
    k_pool[at + min(first + 2u, last)],
    k_pool[at + min(first + 3u, last)],
  );
}

fn new_key_batch(first: u32, last: u32) -> Batch {
  return Batch(
    new_k_vec(min(first, last)),
    new_k_vec(min(first + 1u, last)),
    new_k_vec(min(first + 2u, last)),
    new_k_vec(min(first + 3u, last)),
  );
}

// The chain of q . k over eight features from d.
fn add_vec(dot: f32, key: vec4<u32>, d: u32) -> f32 {
  let k_0 = unpack2x16float(key.x);
  let k_1 = unpack2x16float(key.y);
  let k_2 = unpack2x16float(key.z);
  let k_3 = unpack2x16float(key.w);
  var sum = fma(rotated[d], k_0.x, dot);
  sum = fma(rotated[d + 1u], k_0.y, sum);
  sum = fma(rotated[d + 2u], k_1.x, sum);
  sum = fma(rotated[d + 3u], k_1.y, sum);
  sum = fma(rotated[d + 4u], k_2.x, sum);
  sum = fma(rotated[d + 5u], k_2.y, sum);
  sum = fma(rotated[d + 6u], k_3.x, sum);
  return fma(rotated[d + 7u], k_3.y, sum);
}

// The same over the features of a batch that there are.
fn add_key(dot: f32, key: Batch, d: u32) -> f32 {
  var sum = dot;
  if (d < params.head_dim) {
    sum = add_vec(sum, key.a, d);
  }
  if (d + 8u < params.head_dim) {
    sum = add_vec(sum, key.b, d + 8u);
  }
  if (d + 16u < params.head_dim) {
    sum = add_vec(sum, key.c, d + 16u);
  }
  if (d + 24u < params.head_dim) {
    sum = add_vec(sum, key.d, d + 24u);
  }
  return sum;
}

// Where the values of a page are read.
struct Values {
  // Of the pair's word of key 0.
  at: u32,
  // Words of a key.
  stride: u32,
  new_key: u32,
  // Visible keys.
  begin: u32,
  end: u32,
  pair: u32,
  // The first weight of the team.
  weights: u32,
}

fn load_value(v: Values, j: u32) -> u32 {
  return v_pool[v.at + (j ^ select(0u, 1u, j == v.new_key)) * v.stride];
}

fn load_four(v: Values, j: u32) -> vec4<u32> {
  return vec4<u32>(load_value(v, j), load_value(v, j + 1u), load_value(v, j + 2u), load_value(v, j + 3u));
}

// Values of keys j .. j + BATCH.
fn load_values(v: Values, j: u32) -> Batch {
  return Batch(load_four(v, j), load_four(v, j + 4u), load_four(v, j + 8u), load_four(v, j + 12u));
}

fn add_value(o: vec2<f32>, word: u32, weight: f32) -> vec2<f32> {
  return fma(vec2<f32>(weight), unpack2x16float(word), o);
}

fn add_four(o: vec2<f32>, words: vec4<u32>, at: u32) -> vec2<f32> {
  let o_1 = add_value(o, words.x, weights[at]);
  let o_2 = add_value(o_1, words.y, weights[at + 1u]);
  let o_3 = add_value(o_2, words.z, weights[at + 2u]);
  return add_value(o_3, words.w, weights[at + 3u]);
}

// As add_four, of a page that is not seen as a whole, or has the new key.
fn add_some(o: vec2<f32>, words: vec4<u32>, v: Values, j: u32) -> vec2<f32> {
  var sum = o;
  for (var k = 0u; k < 4u; k += 1u) {
    let key = j + k;
    if (key >= v.begin && key <= v.end) {
      sum = add_value(sum, select(words[k], new_v[v.pair], key == v.new_key), weights[v.weights + key]);
    }
  }
  return sum;
}

// The chain of o_p over the keys j .. j + BATCH.
fn add_values(o: vec2<f32>, words: Batch, v: Values, j: u32) -> vec2<f32> {
  let has_new = v.new_key >= j && v.new_key < j + BATCH;
  if (j >= v.begin && j + BATCH <= v.end + 1u && !has_new) {
    let at = v.weights + j;
    return add_four(add_four(add_four(add_four(o, words.a, at), words.b, at + 4u), words.c, at + 8u), words.d, at + 12u);
  }
  return add_some(add_some(add_some(add_some(o, words.a, v, j), words.b, v, j + 4u), words.c, v, j + 8u), words.d, v, j + 12u);
}

// The team's page; `rotate_first`: `own` is rotated before the scores. Every invocation of the workgroup calls it, those of a team past the last page too,
// which have nothing to do.
fn attend_page(of_team: u32, kv_head: u32, row_at: vec2<u32>, first_key: u32, own: Turn, rotate_first: bool, lid: u32) -> Partial {
  let lane = lid % TEAM;
  let team = lid / TEAM;
  let position = row_at.y;
  let has_page = of_team <= position / PAGE_SIZE;
  let page = min(of_team, position / PAGE_SIZE);
  let block = block_of(row_at.x * params.table_stride + page, kv_head);
  // Of the page that has the new key; elsewhere none.
  let new_key = select(PAGE_SIZE, position % PAGE_SIZE, page == position / PAGE_SIZE);
  let words = params.head_dim / 2u;
  let last_vec = words / 4u - 1u;
  let pair = min(lane, words - 1u);
  let begin = max(first_key, page * PAGE_SIZE) - page * PAGE_SIZE;
  let end = min(position - page * PAGE_SIZE, PAGE_SIZE - 1u);
  let v = Values(block * PAGE_SIZE * words + pair, words, new_key, begin, end, pair, team * TEAM);

  // Loads of what comes later go ahead of everything that waits.
  let key_at = (block * PAGE_SIZE + (lane ^ select(0u, 1u, lane == new_key))) * (words / 4u);
  var key_0 = Batch();
  var key_1 = Batch();
  var key_2 = Batch();
  var key_3 = Batch();
  var values_0 = Batch();
  var values_1 = Batch();
  if (has_page) {
    key_0 = load_key(key_at, 0u, last_vec);
    key_1 = load_key(key_at, 4u, last_vec);
    key_2 = load_key(key_at, 8u, last_vec);
    key_3 = load_key(key_at, 12u, last_vec);
  }
  if (has_page && FEW_REGISTERS == 0u) {
    values_0 = load_values(v, 0u);
    values_1 = load_values(v, BATCH);
  }
  if (rotate_first) {
    rotate(own, lid);
  }
  let visible = has_page && lane >= begin && lane <= end;
  if (lane == new_key) {
    key_0 = new_key_batch(0u, last_vec);
    key_1 = new_key_batch(4u, last_vec);
    key_2 = new_key_batch(8u, last_vec);
    key_3 = new_key_batch(12u, last_vec);
  }
  var dot = 0.0;
  if (has_page) {
    dot = add_key(dot, key_0, 0u);
    dot = add_key(dot, key_1, 32u);
    dot = add_key(dot, key_2, 64u);
    dot = add_key(dot, key_3, 96u);
  }
  scores[lid] = select(LOWEST, params.scale * dot, visible);
  workgroupBarrier();
  var values_2 = Batch();
  var values_3 = Batch();
  if (has_page && FEW_REGISTERS == 0u) {
    values_2 = load_values(v, 2u * BATCH);
    values_3 = load_values(v, 3u * BATCH);
  }
  let m = team_max(team);
  weights[lid] = select(0.0, exp(scores[lid] - m), visible);
  workgroupBarrier();
  var o = vec2<f32>();
  var next = values_0;
  var then = values_1;
  var last = values_2;
  for (var j = 0u; j <= end && has_page; j += BATCH) {
    if (FEW_REGISTERS == 1u) {
      next = load_values(v, j);
    }
    if (j + BATCH > begin) {
      o = add_values(o, next, v, j);
    }
    next = then;
    then = last;
    last = values_3;
  }
  return Partial(m, tree_sum(team), o);
}
