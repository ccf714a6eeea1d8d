// paged_attention.wgsl, up to 32 rows at a time: rows of a tile are consecutive positions of one sequence, and share what is read of K
// and V. For the scores an invocation owns four rows and four keys of a page, for the sums four rows and some pairs of features.
// What follows is shared by the attention_prefill_* kernels.
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
// Features whose sums an invocation makes at once: four pairs, in as many turns as the head has features.
const TURN_FEATURES: u32 = 8u * LANES;
const TURNS: u32 = MAX_HEAD_DIM / TURN_FEATURES;

@group(0) @binding(6) var<storage, read> tiles: array<vec2<u32>>;

// (first row, count, sequence, first position)
var<workgroup> tile: vec4<u32>;
// Some features of the rows' query heads: row_stage[d * ROW_STRIDE + group]. Then what each lane found among its keys, twice.
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

// Stages features first.. of all rows and of the keys of a block.
fn stage_features(first_row: u32, count: u32, head: u32, block: u32, first: u32, invocation: u32) {
  for (var i = invocation; i < STAGE_FEATURES * GROUPS; i += WORKGROUP) {
    let d = i % STAGE_FEATURES;
    let group = i / STAGE_FEATURES;
    row_stage[d * ROW_STRIDE + group] = vec4<f32>(
      load_q(first_row, count, 4u * group, head, first + d),
      load_q(first_row, count, 4u * group + 1u, head, first + d),
      load_q(first_row, count, 4u * group + 2u, head, first + d),
      load_q(first_row, count, 4u * group + 3u, head, first + d),
    );
  }
  for (var i = invocation; i < PAGE_SIZE * STAGE_QUADS; i += WORKGROUP) {
    let key = i / STAGE_QUADS;
    let quad = i % STAGE_QUADS;
    if (first + 4u * quad < params.head_dim) {
      key_stage[key * KEY_STRIDE + quad] = load_k_quad(block, key, first / 4u + quad);
    }
  }
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

fn attended(r: u32, d: u32) -> f32 {
  return key_stage[d][r];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, tile_index: u32, invocation: u32) {
  let lane = invocation % LANES;
  let group = invocation / LANES;
  let pairs = params.head_dim / 2u;
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
  // Pairs 4 * turn .. 4 * turn + 4 of the invocation, even and odd features.
  var o_even = array<vec4<f32>, 4u * TURNS>();
  var o_odd = array<vec4<f32>, 4u * TURNS>();
  for (var page = first_key / PAGE_SIZE; page <= last_page; page += 1u) {
    let block = block_of(at.z * params.table_stride + page, kv_head);
    // Of the invocation's keys lane, lane + 16, lane + 32, lane + 48.
    var dot_0 = vec4<f32>();
    var dot_1 = vec4<f32>();
    var dot_2 = vec4<f32>();
    var dot_3 = vec4<f32>();
    for (var first = 0u; first < params.head_dim; first += STAGE_FEATURES) {
      workgroupBarrier();   // what the stages held was read
      stage_features(first_row, count, head, block, first, invocation);
      workgroupBarrier();
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
    for (var turn = 0u; turn * TURN_FEATURES < params.head_dim; turn += 1u) {
      // Pairs past the end of the head are computed as its last one, and not stored.
      let pair = turn * 4u * LANES + lane;
      let last_pair = pairs - 1u;
      var even_0 = vec4<f32>();
      var even_1 = vec4<f32>();
      var even_2 = vec4<f32>();
      var even_3 = vec4<f32>();
      var odd_0 = vec4<f32>();
      var odd_1 = vec4<f32>();
      var odd_2 = vec4<f32>();
      var odd_3 = vec4<f32>();
      // Four keys at a time, so that what is read of them is on its way at once. Past the end p is 0 and the key is the last one.
      for (var first = begin; first <= end; first += 4u) {
        let j_0 = first;
        let j_1 = min(first + 1u, end);
        let j_2 = min(first + 2u, end);
        let j_3 = min(first + 3u, end);
        let v_00 = load_v_pair(block, j_0, min(pair, last_pair));
        let v_01 = load_v_pair(block, j_0, min(pair + LANES, last_pair));
        let v_02 = load_v_pair(block, j_0, min(pair + 2u * LANES, last_pair));
        let v_03 = load_v_pair(block, j_0, min(pair + 3u * LANES, last_pair));
        let v_10 = load_v_pair(block, j_1, min(pair, last_pair));
        let v_11 = load_v_pair(block, j_1, min(pair + LANES, last_pair));
        let v_12 = load_v_pair(block, j_1, min(pair + 2u * LANES, last_pair));
        let v_13 = load_v_pair(block, j_1, min(pair + 3u * LANES, last_pair));
        let v_20 = load_v_pair(block, j_2, min(pair, last_pair));
        let v_21 = load_v_pair(block, j_2, min(pair + LANES, last_pair));
        let v_22 = load_v_pair(block, j_2, min(pair + 2u * LANES, last_pair));
        let v_23 = load_v_pair(block, j_2, min(pair + 3u * LANES, last_pair));
        let v_30 = load_v_pair(block, j_3, min(pair, last_pair));
        let v_31 = load_v_pair(block, j_3, min(pair + LANES, last_pair));
        let v_32 = load_v_pair(block, j_3, min(pair + 2u * LANES, last_pair));
        let v_33 = load_v_pair(block, j_3, min(pair + 3u * LANES, last_pair));
        let p_0 = key_stage[j_0 * ROW_STRIDE + group];
        let p_1 = select(none, key_stage[j_1 * ROW_STRIDE + group], vec4<bool>(first + 1u <= end));
        let p_2 = select(none, key_stage[j_2 * ROW_STRIDE + group], vec4<bool>(first + 2u <= end));
        let p_3 = select(none, key_stage[j_3 * ROW_STRIDE + group], vec4<bool>(first + 3u <= end));
        even_0 = fma(p_0, vec4<f32>(v_00.x), even_0);
        odd_0 = fma(p_0, vec4<f32>(v_00.y), odd_0);
        even_1 = fma(p_0, vec4<f32>(v_01.x), even_1);
        odd_1 = fma(p_0, vec4<f32>(v_01.y), odd_1);
        even_2 = fma(p_0, vec4<f32>(v_02.x), even_2);
        odd_2 = fma(p_0, vec4<f32>(v_02.y), odd_2);
        even_3 = fma(p_0, vec4<f32>(v_03.x), even_3);
        odd_3 = fma(p_0, vec4<f32>(v_03.y), odd_3);
        even_0 = fma(p_1, vec4<f32>(v_10.x), even_0);
        odd_0 = fma(p_1, vec4<f32>(v_10.y), odd_0);
        even_1 = fma(p_1, vec4<f32>(v_11.x), even_1);
        odd_1 = fma(p_1, vec4<f32>(v_11.y), odd_1);
        even_2 = fma(p_1, vec4<f32>(v_12.x), even_2);
        odd_2 = fma(p_1, vec4<f32>(v_12.y), odd_2);
        even_3 = fma(p_1, vec4<f32>(v_13.x), even_3);
        odd_3 = fma(p_1, vec4<f32>(v_13.y), odd_3);
        even_0 = fma(p_2, vec4<f32>(v_20.x), even_0);
        odd_0 = fma(p_2, vec4<f32>(v_20.y), odd_0);
        even_1 = fma(p_2, vec4<f32>(v_21.x), even_1);
        odd_1 = fma(p_2, vec4<f32>(v_21.y), odd_1);
        even_2 = fma(p_2, vec4<f32>(v_22.x), even_2);
        odd_2 = fma(p_2, vec4<f32>(v_22.y), odd_2);
        even_3 = fma(p_2, vec4<f32>(v_23.x), even_3);
        odd_3 = fma(p_2, vec4<f32>(v_23.y), odd_3);
        even_0 = fma(p_3, vec4<f32>(v_30.x), even_0);
        odd_0 = fma(p_3, vec4<f32>(v_30.y), odd_0);
        even_1 = fma(p_3, vec4<f32>(v_31.x), even_1);
        odd_1 = fma(p_3, vec4<f32>(v_31.y), odd_1);
        even_2 = fma(p_3, vec4<f32>(v_32.x), even_2);
        odd_2 = fma(p_3, vec4<f32>(v_32.y), odd_2);
        even_3 = fma(p_3, vec4<f32>(v_33.x), even_3);
        odd_3 = fma(p_3, vec4<f32>(v_33.y), odd_3);
      }
      o_even[4u * turn] = folded(o_even[4u * turn], a, even_0, b, is_first, is_later);
      o_odd[4u * turn] = folded(o_odd[4u * turn], a, odd_0, b, is_first, is_later);
      o_even[4u * turn + 1u] = folded(o_even[4u * turn + 1u], a, even_1, b, is_first, is_later);
      o_odd[4u * turn + 1u] = folded(o_odd[4u * turn + 1u], a, odd_1, b, is_first, is_later);
      o_even[4u * turn + 2u] = folded(o_even[4u * turn + 2u], a, even_2, b, is_first, is_later);
      o_odd[4u * turn + 2u] = folded(o_odd[4u * turn + 2u], a, odd_2, b, is_first, is_later);
      o_even[4u * turn + 3u] = folded(o_even[4u * turn + 3u], a, even_3, b, is_first, is_later);
      o_odd[4u * turn + 3u] = folded(o_odd[4u * turn + 3u], a, odd_3, b, is_first, is_later);
    }
  }

  // Four rows at a time.
  let outputs = outputs_of(head);
  for (var first = 0u; first < count; first += 4u) {
    workgroupBarrier();   // what is there was read
    if (group == first / 4u) {
      for (var i = 0u; i < 4u * TURNS; i += 1u) {
        let pair = i * LANES + lane;
        if (pair < pairs) {
          key_stage[2u * pair] = o_even[i] / l;
          key_stage[2u * pair + 1u] = o_odd[i] / l;
        }
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
