// paged_attention.wgsl, up to 32 rows at a time: rows of a tile are consecutive positions of one sequence, and share what is read of K
// and V, which passes through workgroup memory and is on its way while what came before is computed. For the scores an invocation owns
// four rows and four keys of a page, for the sums four rows and two quads of features. What follows is shared by the
// attention_prefill_* kernels.
//
//   tiles  [num_tiles] vec2<u32> (first_row, count), count <= 32; nothing is done where count is 0
//
// grid: (heads, num_tiles, 1), one workgroup of 128 per head of a tile.

// Groups of LANES invocations, each with four rows of the tile.
const GROUPS: u32 = 8u;
const LANES: u32 = 16u;
const WORKGROUP: u32 = GROUPS * LANES;
// An element has four rows; there is one more than the groups, against bank conflicts.
const ROW_STRIDE: u32 = GROUPS + 1u;
// Features that are staged at once, in quads of four; a key of the stage has one more quad.
const STAGE_QUADS: u32 = 8u;
const STAGE_FEATURES: u32 = 4u * STAGE_QUADS;
const KEY_STRIDE: u32 = STAGE_QUADS + 1u;
// Features whose sums an invocation makes at once: two quads, 64 features apart.
const TURN_FEATURES: u32 = 8u * LANES;
// Keys whose values are staged at once, and quads of one.
const VALUE_KEYS: u32 = 8u;
const VALUE_QUADS: u32 = TURN_FEATURES / 4u;

// 1 where a head has more than TURN_FEATURES, which take a second turn: 0 leaves out what that needs.
override WIDE: u32 = 1u;

@group(0) @binding(6) var<storage, read> tiles: array<vec2<u32>>;

// (first row, count, sequence, first position)
var<workgroup> tile: vec4<u32>;
// Some features of the rows' query heads: row_stage[d * ROW_STRIDE + group]. Then what each lane found among its keys, twice. Then the
// values of some keys: [key * VALUE_QUADS + quad].
var<workgroup> row_stage: array<vec4<f32>, STAGE_FEATURES * ROW_STRIDE>;
// Some features of the page's keys: key_stage[key * KEY_STRIDE + quad]. Then scores, then p * v_scale: [key * ROW_STRIDE + group]. At
// the end the outputs of one group: [d].
var<workgroup> key_stage: array<vec4<f32>, PAGE_SIZE * KEY_STRIDE>;

// q of one row of the tile, zeros for rows past its end and features past head_dim.
fn load_q(first_row: u32, count: u32, row: u32, head: u32, d: u32) -> f32 {
  if (row < count && d < params.head_dim) {
    return qkv[(first_row + row) * params.stride + head * params.head_dim + d];
  }
  return 0.0;
}

// What an invocation stages of features first.. of all rows and of the keys of a block.
struct Fetched {
  q_0: vec4<f32>,
  q_1: vec4<f32>,
  k_0: vec4<f32>,
  k_1: vec4<f32>,
  k_2: vec4<f32>,
  k_3: vec4<f32>,
}

// A feature of the four rows of a group.
fn fetch_q(first_row: u32, count: u32, head: u32, first: u32, i: u32) -> vec4<f32> {
  let d = first + i % STAGE_FEATURES;
  let row = 4u * (i / STAGE_FEATURES);
  return vec4<f32>(
    load_q(first_row, count, row, head, d),
    load_q(first_row, count, row + 1u, head, d),
    load_q(first_row, count, row + 2u, head, d),
    load_q(first_row, count, row + 3u, head, d),
  );
}

fn fetch_k(block: u32, first: u32, i: u32) -> vec4<f32> {
  let quad = i % STAGE_QUADS;
  if (first + 4u * quad < params.head_dim) {
    return load_k_quad(block, i / STAGE_QUADS, first / 4u + quad);
  }
  return vec4<f32>();
}

fn fetch(first_row: u32, count: u32, head: u32, block: u32, first: u32, invocation: u32) -> Fetched {
  return Fetched(
    fetch_q(first_row, count, head, first, invocation),
    fetch_q(first_row, count, head, first, invocation + WORKGROUP),
    fetch_k(block, first, invocation),
    fetch_k(block, first, invocation + WORKGROUP),
    fetch_k(block, first, invocation + 2u * WORKGROUP),
    fetch_k(block, first, invocation + 3u * WORKGROUP),
  );
}

fn stage_fetched(fetched: Fetched, invocation: u32) {
  let q_at = invocation % STAGE_FEATURES * ROW_STRIDE + invocation / STAGE_FEATURES;
  row_stage[q_at] = fetched.q_0;
  row_stage[q_at + WORKGROUP / STAGE_FEATURES] = fetched.q_1;
  let k_at = invocation / STAGE_QUADS * KEY_STRIDE + invocation % STAGE_QUADS;
  key_stage[k_at] = fetched.k_0;
  key_stage[k_at + WORKGROUP / STAGE_QUADS * KEY_STRIDE] = fetched.k_1;
  key_stage[k_at + 2u * WORKGROUP / STAGE_QUADS * KEY_STRIDE] = fetched.k_2;
  key_stage[k_at + 3u * WORKGROUP / STAGE_QUADS * KEY_STRIDE] = fetched.k_3;
}

// Quad i of some keys' values, from key `first` and quad `first_quad` on; zeros for keys past `end` and features past head_dim.
fn fetch_v(block: u32, first: u32, end: u32, first_quad: u32, i: u32) -> vec4<f32> {
  let key = first + i / VALUE_QUADS;
  let pair = 2u * (first_quad + i % VALUE_QUADS);
  var v = vec4<f32>();
  if (key <= end && 2u * pair < params.head_dim) {
    let low = load_v_pair(block, key, pair);
    v.x = low.x;
    v.y = low.y;
    if (2u * pair + 2u < params.head_dim) {
      let high = load_v_pair(block, key, pair + 1u);
      v.z = high.x;
      v.w = high.y;
    }
  }
  return v;
}

// Of four rows, eight features of an invocation in a turn: those of its first quad, then those of its second.
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

fn add_value_quads(sums: Sums, p: vec4<f32>, low: vec4<f32>, high: vec4<f32>) -> Sums {
  return Sums(
    fma(p, vec4<f32>(low.x), sums.a),
    fma(p, vec4<f32>(low.y), sums.b),
    fma(p, vec4<f32>(low.z), sums.c),
    fma(p, vec4<f32>(low.w), sums.d),
    fma(p, vec4<f32>(high.x), sums.e),
    fma(p, vec4<f32>(high.y), sums.f),
    fma(p, vec4<f32>(high.z), sums.g),
    fma(p, vec4<f32>(high.w), sums.h),
  );
}

// o_p of the keys begin ..= end. Every invocation of the workgroup calls it, after what row_stage holds was read.
fn sums_of_page(block: u32, begin: u32, end: u32, first_quad: u32, group: u32, lane: u32, invocation: u32) -> Sums {
  var sums = Sums();
  var next_0 = fetch_v(block, begin, end, first_quad, invocation);
  var next_1 = fetch_v(block, begin, end, first_quad, invocation + WORKGROUP);
  for (var first = begin; first <= end; first += VALUE_KEYS) {
    workgroupBarrier();   // the values of the keys before were read
    row_stage[invocation] = next_0;
    row_stage[invocation + WORKGROUP] = next_1;
    workgroupBarrier();
    next_0 = fetch_v(block, first + VALUE_KEYS, end, first_quad, invocation);
    next_1 = fetch_v(block, first + VALUE_KEYS, end, first_quad, invocation + WORKGROUP);
    for (var j = 0u; j < VALUE_KEYS; j += 1u) {
      let key = min(first + j, end);
      // Of keys past the end the values are zeros.
      let p = key_stage[key * ROW_STRIDE + group];
      let at = j * VALUE_QUADS + lane;
      sums = add_value_quads(sums, p, row_stage[at], row_stage[at + LANES]);
    }
  }
  return sums;
}

// Products with a quad of a key, added to those of the features before.
fn add_products(dot: vec4<f32>, at: u32, k: vec4<f32>) -> vec4<f32> {
  let x = fma(row_stage[at], vec4<f32>(k.x), dot);
  let y = fma(row_stage[at + ROW_STRIDE], vec4<f32>(k.y), x);
  let z = fma(row_stage[at + 2u * ROW_STRIDE], vec4<f32>(k.z), y);
  return fma(row_stage[at + 3u * ROW_STRIDE], vec4<f32>(k.w), z);
}

fn store_score(block: u32, key: u32, group: u32, dot: vec4<f32>) {
  key_stage[key * ROW_STRIDE + group] = params.scale * (k_scale(block, key) * dot);
}

fn visible(key: u32, first_keys: vec4<u32>, positions: vec4<u32>) -> vec4<bool> {
  return (vec4<u32>(key) >= first_keys) & (vec4<u32>(key) <= positions);
}

// Maximum over the lanes of a group.
fn max_of_lanes(group: u32) -> vec4<f32> {
  var result = row_stage[group];
  for (var i = 1u; i < LANES; i += 1u) {
    result = max(result, row_stage[i * ROW_STRIDE + group]);
  }
  return result;
}

// Sum over the lanes of a group by pairwise halving.
fn sum_of_lanes(group: u32) -> vec4<f32> {
  let at = LANES * ROW_STRIDE + group;
  var sums: array<vec4<f32>, LANES / 2u>;
  for (var i = 0u; i < LANES / 2u; i += 1u) {
    sums[i] = row_stage[at + i * ROW_STRIDE] + row_stage[at + (i + LANES / 2u) * ROW_STRIDE];
  }
  let quarter_0 = sums[0] + sums[4];
  let quarter_1 = sums[1] + sums[5];
  let quarter_2 = sums[2] + sums[6];
  let quarter_3 = sums[3] + sums[7];
  return (quarter_0 + quarter_2) + (quarter_1 + quarter_3);
}

// Sums with those of a further page folded in: a is the factor of what was there, b that of the page.
fn folded(
  o: vec4<f32>,
  a: vec4<f32>,
  page: vec4<f32>,
  b: vec4<f32>,
  is_first: vec4<bool>,
  is_later: vec4<bool>,
) -> vec4<f32> {
  return select(select(o, fma(o, a, page * b), is_later), page, is_first);
}

fn folded_all(
  o: Sums,
  a: vec4<f32>,
  page: Sums,
  b: vec4<f32>,
  is_first: vec4<bool>,
  is_later: vec4<bool>,
) -> Sums {
  return Sums(
    folded(o.a, a, page.a, b, is_first, is_later),
    folded(o.b, a, page.b, b, is_first, is_later),
    folded(o.c, a, page.c, b, is_first, is_later),
    folded(o.d, a, page.d, b, is_first, is_later),
    folded(o.e, a, page.e, b, is_first, is_later),
    folded(o.f, a, page.f, b, is_first, is_later),
    folded(o.g, a, page.g, b, is_first, is_later),
    folded(o.h, a, page.h, b, is_first, is_later),
  );
}

// A quad of the output from feature d on, for four rows.
fn put_quad(d: u32, l: vec4<f32>, x: vec4<f32>, y: vec4<f32>, z: vec4<f32>, w: vec4<f32>) {
  if (d < params.head_dim) {
    key_stage[d] = x / l;
    key_stage[d + 1u] = y / l;
  }
  if (d + 2u < params.head_dim) {
    key_stage[d + 2u] = z / l;
    key_stage[d + 3u] = w / l;
  }
}

fn put(o: Sums, l: vec4<f32>, first: u32, lane: u32) {
  let d = first + 4u * lane;
  put_quad(d, l, o.a, o.b, o.c, o.d);
  put_quad(d + 4u * LANES, l, o.e, o.f, o.g, o.h);
}

fn attended(r: u32, d: u32) -> f32 {
  return key_stage[d][r];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, tile_index: u32, invocation: u32) {
  let lane = invocation % LANES;
  let group = invocation / LANES;
  let kv_head = head / (params.heads / params.kv_heads);
  if (invocation == 0u) {
    let rows = tiles[tile_index];
    tile = vec4<u32>(rows, row_info[rows.x]);
  }
  let at = workgroupUniformLoad(&tile);
  let first_row = at.x;
  let count = at.y;
  if (count == 0u) {
    return;
  }

  // Of the invocation's rows; those past the end of the tile are computed as if they were there, and not stored.
  let positions = vec4<u32>(at.w + group * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
  let first_keys = vec4<u32>(
    first_visible(positions.x),
    first_visible(positions.y),
    first_visible(positions.z),
    first_visible(positions.w),
  );
  let first_pages = first_keys / PAGE_SIZE;
  // Of the whole tile.
  let last_position = at.w + count - 1u;
  let first_key = first_visible(at.w);
  let last_page = last_position / PAGE_SIZE;

  var m = vec4<f32>();
  var l = vec4<f32>();
  var o = Sums();
  var o_wide = Sums();
  for (var page = first_key / PAGE_SIZE; page <= last_page; page += 1u) {
    let block = block_of(at.z * params.table_stride + page, kv_head);
    // Of the invocation's keys lane, lane + 16, lane + 32, lane + 48.
    var dot_0 = vec4<f32>();
    var dot_1 = vec4<f32>();
    var dot_2 = vec4<f32>();
    var dot_3 = vec4<f32>();
    var next = fetch(first_row, count, head, block, 0u, invocation);
    for (var first = 0u; first < params.head_dim; first += STAGE_FEATURES) {
      workgroupBarrier();   // what the stages held was read
      stage_fetched(next, invocation);
      workgroupBarrier();
      if (first + STAGE_FEATURES < params.head_dim) {
        next = fetch(first_row, count, head, block, first + STAGE_FEATURES, invocation);
      }
      let quads = min(STAGE_QUADS, (params.head_dim - first + 3u) / 4u);
      for (var quad = 0u; quad < quads; quad += 1u) {
        let rows = 4u * quad * ROW_STRIDE + group;
        dot_0 = add_products(dot_0, rows, key_stage[lane * KEY_STRIDE + quad]);
        dot_1 = add_products(dot_1, rows, key_stage[(lane + LANES) * KEY_STRIDE + quad]);
        dot_2 = add_products(dot_2, rows, key_stage[(lane + 2u * LANES) * KEY_STRIDE + quad]);
        dot_3 = add_products(dot_3, rows, key_stage[(lane + 3u * LANES) * KEY_STRIDE + quad]);
      }
    }
    workgroupBarrier();   // the stages were read
    store_score(block, lane, group, dot_0);
    store_score(block, lane + LANES, group, dot_1);
    store_score(block, lane + 2u * LANES, group, dot_2);
    store_score(block, lane + 3u * LANES, group, dot_3);
    workgroupBarrier();
    let own = lane * ROW_STRIDE + group;
    let score_0 = key_stage[own];
    let score_1 = key_stage[own + LANES * ROW_STRIDE];
    let score_2 = key_stage[own + 2u * LANES * ROW_STRIDE];
    let score_3 = key_stage[own + 3u * LANES * ROW_STRIDE];
    let key = page * PAGE_SIZE + lane;
    let visible_0 = visible(key, first_keys, positions);
    let visible_1 = visible(key + LANES, first_keys, positions);
    let visible_2 = visible(key + 2u * LANES, first_keys, positions);
    let visible_3 = visible(key + 3u * LANES, first_keys, positions);
    let lowest = vec4<f32>(LOWEST);
    row_stage[own] = max(
      max(select(lowest, score_0, visible_0), select(lowest, score_1, visible_1)),
      max(select(lowest, score_2, visible_2), select(lowest, score_3, visible_3)),
    );
    workgroupBarrier();
    let m_p = max_of_lanes(group);
    let none = vec4<f32>();
    let p_0 = select(none, exp(score_0 - m_p), visible_0);
    let p_1 = select(none, exp(score_1 - m_p), visible_1);
    let p_2 = select(none, exp(score_2 - m_p), visible_2);
    let p_3 = select(none, exp(score_3 - m_p), visible_3);
    key_stage[own] = p_0 * v_scale(block, lane);
    key_stage[own + LANES * ROW_STRIDE] = p_1 * v_scale(block, lane + LANES);
    key_stage[own + 2u * LANES * ROW_STRIDE] = p_2 * v_scale(block, lane + 2u * LANES);
    key_stage[own + 3u * LANES * ROW_STRIDE] = p_3 * v_scale(block, lane + 3u * LANES);
    // Halves of 64 keys, then of 32.
    row_stage[LANES * ROW_STRIDE + own] = (p_0 + p_2) + (p_1 + p_3);
    workgroupBarrier();
    let l_p = sum_of_lanes(group);

    let m_both = max(m, m_p);
    let a = exp(m - m_both);
    let b = exp(m_p - m_both);
    // A row leaves pages alone that it does not see.
    let is_first = vec4<u32>(page) == first_pages;
    let is_later = (vec4<u32>(page) > first_pages) & (vec4<u32>(page * PAGE_SIZE) <= positions);
    m = select(select(m, m_both, is_later), m_p, is_first);
    l = select(select(l, fma(l, a, l_p * b), is_later), l_p, is_first);
    // The keys that some row of the tile sees; p is 0 for rows that do not.
    let begin = max(first_key, page * PAGE_SIZE) % PAGE_SIZE;
    let end = min(last_position - page * PAGE_SIZE, PAGE_SIZE - 1u);
    let page_sums = sums_of_page(block, begin, end, 0u, group, lane, invocation);
    o = folded_all(o, a, page_sums, b, is_first, is_later);
    if (WIDE == 1u) {
      let wide_sums = sums_of_page(block, begin, end, VALUE_QUADS, group, lane, invocation);
      o_wide = folded_all(o_wide, a, wide_sums, b, is_first, is_later);
    }
  }

  // Four rows at a time.
  let outputs = outputs_of(head);
  for (var first = 0u; first < count; first += 4u) {
    workgroupBarrier();   // what is there was read
    if (group == first / 4u) {
      put(o, l, 0u, lane);
      if (WIDE == 1u) {
        put(o_wide, l, TURN_FEATURES, lane);
      }
    }
    workgroupBarrier();
    let rows = min(count - first, 4u);
    for (var i = invocation; i < rows * outputs; i += WORKGROUP) {
      let r = i / outputs;
      store(first_row + first + r, r, head, i % outputs);
    }
  }
}
