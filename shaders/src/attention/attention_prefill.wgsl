// paged_attention.wgsl, up to 32 rows at a time: rows of a tile are consecutive positions of one sequence, and share what is read of K
// and V, which passes through workgroup memory. An invocation owns four rows: for the scores four keys of a page, for the sums two quads
// of features; half of both where registers are few. What follows is shared by the attention_prefill_* kernels.
//
//   tiles  [num_tiles] vec2<u32> (first_row, count), count <= 32; nothing is done where count is 0
//
// head_dim is at most 128 here.
//
// grid: (heads, num_tiles, 1), one workgroup per head of a tile, those of the last tiles first: they have most keys.

// 1: twice as many invocations, each with half the work and fewer registers. The order of every sum is the same.
override FEW_REGISTERS: u32 = 0u;

// Groups of LANES invocations, each with four rows of the tile.
const GROUPS: u32 = 8u;
override LANES: u32 = 16u + 16u * FEW_REGISTERS;
override WORKGROUP: u32 = GROUPS * LANES;
// An element has four rows; there is one more than the groups, against bank conflicts.
const ROW_STRIDE: u32 = GROUPS + 1u;
// Features that are staged at once, in quads of four; a key of the stage has one more quad.
const STAGE_QUADS: u32 = 8u;
const STAGE_FEATURES: u32 = 4u * STAGE_QUADS;
const KEY_STRIDE: u32 = STAGE_QUADS + 1u;
// Features of a head at most.
const MOST_FEATURES: u32 = 128u;
// Keys whose values are staged at once, and quads of one.
const VALUE_KEYS: u32 = 8u;
const VALUE_QUADS: u32 = MOST_FEATURES / 4u;

@group(0) @binding(6) var<storage, read> tiles: array<vec2<u32>>;

// (first row, count, sequence, first position)
var<workgroup> tile: vec4<u32>;
// Some features of the rows' query heads: row_stage[d * ROW_STRIDE + group]. Then what each lane found among its keys, twice. Then the
// values of some keys: [key * VALUE_QUADS + quad].
var<workgroup> row_stage: array<vec4<f32>, STAGE_FEATURES * ROW_STRIDE>;
// Some features of the page's keys: key_stage[key * KEY_STRIDE + quad]. Then scores, then p * v_scale: [key * ROW_STRIDE + group]. At
// the end the outputs of half the rows: [group % 4 * MOST_FEATURES + d].
var<workgroup> key_stage: array<vec4<f32>, PAGE_SIZE * KEY_STRIDE>;

// Loads without branches: a driver then has many on their way.

// Where four of the tile's rows have feature 0 of a head. Rows past the end are the last one.
fn rows_at(rows: vec4<u32>, head: u32, first: u32) -> vec4<u32> {
  let row = min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(rows.y - 1u));
  return (vec4<u32>(rows.x) + row) * params.stride + head * params.head_dim;
}

// A feature of four rows, zeros past head_dim.
fn fetch_q(at: vec4<u32>, feature: u32) -> vec4<f32> {
  let d = min(feature, params.head_dim - 1u);
  let q = vec4<f32>(qkv[at.x + d], qkv[at.y + d], qkv[at.z + d], qkv[at.w + d]);
  return select(vec4<f32>(), q, feature < params.head_dim);
}

// A quad of a key's features; its last one past head_dim.
fn fetch_k(block: u32, key: u32, quad: u32) -> vec4<f32> {
  return load_k_quad(block, key, min(quad, (params.head_dim - 1u) / 4u));
}

// Quad i of some keys' values, from key `first` on; zeros for keys that no row sees.
fn fetch_v(block: u32, first: u32, begin: u32, end: u32, i: u32) -> vec4<f32> {
  let key = first + i / VALUE_QUADS;
  let v = load_v_quad(block, clamp(key, begin, end), min(i % VALUE_QUADS, (params.head_dim - 1u) / 4u));
  return select(vec4<f32>(), v, key >= begin && key <= end);
}

// Zero for keys that no row sees.
fn seen_v_scale(block: u32, key: u32, begin: u32, end: u32) -> f32 {
  return select(0.0, v_scale(block, key), key >= begin && key <= end);
}

fn scaled(block: u32, key: u32, dot: vec4<f32>) -> vec4<f32> {
  return params.scale * (k_scale(block, key) * dot);
}

fn visible(key: u32, first_keys: vec4<u32>, positions: vec4<u32>) -> vec4<bool> {
  return (vec4<u32>(key) >= first_keys) & (vec4<u32>(key) <= positions);
}

// Maximum over the lanes of a group.
fn max_of_lanes(rows: u32) -> vec4<f32> {
  var result = row_stage[rows];
  for (var i = 1u; i < LANES; i += 1u) {
    result = max(result, row_stage[i * ROW_STRIDE + rows]);
  }
  return result;
}

// Where the lanes' sums lie: behind what max_of_lanes reads, or in its place.
fn sums_at(rows: u32) -> u32 {
  return select(16u * ROW_STRIDE, 0u, FEW_REGISTERS == 1u) + rows;
}

// Of lanes 8 apart, after those 16 apart where there are so many.
fn sum_of_pair(rows: u32, i: u32) -> vec4<f32> {
  let at = sums_at(rows) + i * ROW_STRIDE;
  if (FEW_REGISTERS == 1u) {
    return (row_stage[at] + row_stage[at + 16u * ROW_STRIDE]) + (row_stage[at + 8u * ROW_STRIDE] + row_stage[at + 24u * ROW_STRIDE]);
  }
  return row_stage[at] + row_stage[at + 8u * ROW_STRIDE];
}

// Sum over the lanes of a group by pairwise halving.
fn sum_of_lanes(rows: u32) -> vec4<f32> {
  let quarter_0 = sum_of_pair(rows, 0u) + sum_of_pair(rows, 4u);
  let quarter_1 = sum_of_pair(rows, 1u) + sum_of_pair(rows, 5u);
  let quarter_2 = sum_of_pair(rows, 2u) + sum_of_pair(rows, 6u);
  let quarter_3 = sum_of_pair(rows, 3u) + sum_of_pair(rows, 7u);
  return (quarter_0 + quarter_2) + (quarter_1 + quarter_3);
}

// What a page does to the sums of four rows: a is the factor of what was there, b that of the page.
struct Fold {
  m: vec4<f32>,
  a: vec4<f32>,
  b: vec4<f32>,
  is_first: vec4<bool>,
  is_later: vec4<bool>,
}

// A row leaves pages alone that it does not see.
fn fold_of(page: u32, m: vec4<f32>, m_p: vec4<f32>, first_keys: vec4<u32>, positions: vec4<u32>) -> Fold {
  let both = max(m, m_p);
  let first_pages = first_keys / PAGE_SIZE;
  let is_first = vec4<u32>(page) == first_pages;
  let is_later = (vec4<u32>(page) > first_pages) & (vec4<u32>(page * PAGE_SIZE) <= positions);
  return Fold(select(select(m, both, is_later), m_p, is_first), exp(m - both), exp(m_p - both), is_first, is_later);
}

fn folded(o: vec4<f32>, page: vec4<f32>, by: Fold) -> vec4<f32> {
  return select(select(o, fma(o, by.a, page * by.b), by.is_later), page, by.is_first);
}

fn attended(r: u32, d: u32) -> f32 {
  return key_stage[r / 4u * MOST_FEATURES + d][r % 4u];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, index: u32, invocation: u32) {
  // Neighbours share keys or rows, whichever is read.
  let lane = (invocation & 1u) | ((invocation >> 2u) & 14u) | ((invocation >> 3u) & 16u);
  let group = ((invocation >> 1u) & 3u) | ((invocation >> 4u) & 4u);
  let kv_head = head / (params.heads / params.kv_heads);
  if (invocation == 0u) {
    let rows = tiles[params.count - 1u - index];
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
  // Of the whole tile.
  let last_position = at.w + count - 1u;
  let first_key = first_visible(at.w);
  let last_page = last_position / PAGE_SIZE;

  // What the invocation stages of the rows and keys.
  let own_feature = invocation % STAGE_FEATURES;
  let low_rows = rows_at(at, head, invocation / STAGE_FEATURES * 4u);
  let high_rows = rows_at(at, head, invocation / STAGE_FEATURES * 4u + 16u);
  let own_key = invocation / STAGE_QUADS;

  var m = vec4<f32>();
  var l = vec4<f32>();
  // Of the features 4 * lane .. 4 * lane + 4, then of those 64 further where there are 16 lanes.
  var o_a_x = vec4<f32>();
  var o_a_y = vec4<f32>();
  var o_a_z = vec4<f32>();
  var o_a_w = vec4<f32>();
  var o_b_x = vec4<f32>();
  var o_b_y = vec4<f32>();
  var o_b_z = vec4<f32>();
  var o_b_w = vec4<f32>();
  for (var page = first_key / PAGE_SIZE; page <= last_page; page += 1u) {
    let block = block_of(at.z * params.table_stride + page, kv_head);
    // The keys that some row of the tile sees; p is 0 for rows that do not.
    let begin = max(first_key, page * PAGE_SIZE) % PAGE_SIZE;
    let end = min(last_position - page * PAGE_SIZE, PAGE_SIZE - 1u);
    // Of the invocation's keys lane, lane + LANES, and where there are 16 lanes lane + 32, lane + 48.
    var dot_0 = vec4<f32>();
    var dot_1 = vec4<f32>();
    var dot_2 = vec4<f32>();
    var dot_3 = vec4<f32>();
    for (var first = 0u; first < params.head_dim; first += STAGE_FEATURES) {
      let q_0 = fetch_q(low_rows, first + own_feature);
      var q_1 = vec4<f32>();
      if (FEW_REGISTERS == 0u) {
        q_1 = fetch_q(high_rows, first + own_feature);
      }
      let own_quad = first / 4u + invocation % STAGE_QUADS;
      let k_0 = fetch_k(block, own_key, own_quad);
      let k_1 = fetch_k(block, own_key + LANES, own_quad);
      var k_2 = vec4<f32>();
      var k_3 = vec4<f32>();
      if (FEW_REGISTERS == 0u) {
        k_2 = fetch_k(block, own_key + 32u, own_quad);
        k_3 = fetch_k(block, own_key + 48u, own_quad);
      }
      workgroupBarrier();   // what the stages held was read
      let q_at = invocation % STAGE_FEATURES * ROW_STRIDE + invocation / STAGE_FEATURES;
      row_stage[q_at] = q_0;
      let k_at = invocation / STAGE_QUADS * KEY_STRIDE + invocation % STAGE_QUADS;
      key_stage[k_at] = k_0;
      key_stage[k_at + LANES * KEY_STRIDE] = k_1;
      if (FEW_REGISTERS == 0u) {
        row_stage[q_at + 4u] = q_1;
        key_stage[k_at + 32u * KEY_STRIDE] = k_2;
        key_stage[k_at + 48u * KEY_STRIDE] = k_3;
      }
      workgroupBarrier();
      let quads = min(STAGE_QUADS, (params.head_dim - first + 3u) / 4u);
      for (var quad = 0u; quad < quads; quad += 1u) {
        let rows = 4u * quad * ROW_STRIDE + group;
        let keys = lane * KEY_STRIDE + quad;
        let key_0 = key_stage[keys];
        let key_1 = key_stage[keys + LANES * KEY_STRIDE];
        var key_2 = vec4<f32>();
        var key_3 = vec4<f32>();
        if (FEW_REGISTERS == 0u) {
          key_2 = key_stage[keys + 32u * KEY_STRIDE];
          key_3 = key_stage[keys + 48u * KEY_STRIDE];
        }
        let q_x = row_stage[rows];
        dot_0 = fma(q_x, vec4<f32>(key_0.x), dot_0);
        dot_1 = fma(q_x, vec4<f32>(key_1.x), dot_1);
        if (FEW_REGISTERS == 0u) {
          dot_2 = fma(q_x, vec4<f32>(key_2.x), dot_2);
          dot_3 = fma(q_x, vec4<f32>(key_3.x), dot_3);
        }
        let q_y = row_stage[rows + ROW_STRIDE];
        dot_0 = fma(q_y, vec4<f32>(key_0.y), dot_0);
        dot_1 = fma(q_y, vec4<f32>(key_1.y), dot_1);
        if (FEW_REGISTERS == 0u) {
          dot_2 = fma(q_y, vec4<f32>(key_2.y), dot_2);
          dot_3 = fma(q_y, vec4<f32>(key_3.y), dot_3);
        }
        let q_z = row_stage[rows + 2u * ROW_STRIDE];
        dot_0 = fma(q_z, vec4<f32>(key_0.z), dot_0);
        dot_1 = fma(q_z, vec4<f32>(key_1.z), dot_1);
        if (FEW_REGISTERS == 0u) {
          dot_2 = fma(q_z, vec4<f32>(key_2.z), dot_2);
          dot_3 = fma(q_z, vec4<f32>(key_3.z), dot_3);
        }
        let q_w = row_stage[rows + 3u * ROW_STRIDE];
        dot_0 = fma(q_w, vec4<f32>(key_0.w), dot_0);
        dot_1 = fma(q_w, vec4<f32>(key_1.w), dot_1);
        if (FEW_REGISTERS == 0u) {
          dot_2 = fma(q_w, vec4<f32>(key_2.w), dot_2);
          dot_3 = fma(q_w, vec4<f32>(key_3.w), dot_3);
        }
      }
    }
    workgroupBarrier();   // the stages were read
    let own = lane * ROW_STRIDE + group;
    key_stage[own] = scaled(block, lane, dot_0);
    key_stage[own + LANES * ROW_STRIDE] = scaled(block, lane + LANES, dot_1);
    if (FEW_REGISTERS == 0u) {
      key_stage[own + 32u * ROW_STRIDE] = scaled(block, lane + 32u, dot_2);
      key_stage[own + 48u * ROW_STRIDE] = scaled(block, lane + 48u, dot_3);
    }
    workgroupBarrier();
    let key = page * PAGE_SIZE + lane;
    let lowest = vec4<f32>(LOWEST);
    let score_0 = key_stage[own];
    let visible_0 = visible(key, first_keys, positions);
    let score_1 = key_stage[own + LANES * ROW_STRIDE];
    let visible_1 = visible(key + LANES, first_keys, positions);
    var score_2 = lowest;
    var score_3 = lowest;
    let visible_2 = visible(key + 32u, first_keys, positions);
    let visible_3 = visible(key + 48u, first_keys, positions);
    var highest = max(select(lowest, score_0, visible_0), select(lowest, score_1, visible_1));
    if (FEW_REGISTERS == 0u) {
      score_2 = key_stage[own + 32u * ROW_STRIDE];
      score_3 = key_stage[own + 48u * ROW_STRIDE];
      highest = max(highest, max(select(lowest, score_2, visible_2), select(lowest, score_3, visible_3)));
    }
    row_stage[own] = highest;
    workgroupBarrier();
    let none = vec4<f32>();
    let m_p = max_of_lanes(group);
    let p_0 = select(none, exp(score_0 - m_p), visible_0);
    let p_1 = select(none, exp(score_1 - m_p), visible_1);
    key_stage[own] = p_0 * seen_v_scale(block, lane, begin, end);
    key_stage[own + LANES * ROW_STRIDE] = p_1 * seen_v_scale(block, lane + LANES, begin, end);
    // Halves of 64 keys, then of 32 where there are 16 lanes.
    if (FEW_REGISTERS == 1u) {
      workgroupBarrier();   // the largest were read
      row_stage[sums_at(own)] = p_0 + p_1;
    } else {
      let p_2 = select(none, exp(score_2 - m_p), visible_2);
      let p_3 = select(none, exp(score_3 - m_p), visible_3);
      key_stage[own + 32u * ROW_STRIDE] = p_2 * seen_v_scale(block, lane + 32u, begin, end);
      key_stage[own + 48u * ROW_STRIDE] = p_3 * seen_v_scale(block, lane + 48u, begin, end);
      row_stage[sums_at(own)] = (p_0 + p_2) + (p_1 + p_3);
    }
    workgroupBarrier();
    let fold = fold_of(page, m, m_p, first_keys, positions);
    m = fold.m;
    l = folded(l, sum_of_lanes(group), fold);
    var page_a_x = vec4<f32>();
    var page_a_y = vec4<f32>();
    var page_a_z = vec4<f32>();
    var page_a_w = vec4<f32>();
    var page_b_x = vec4<f32>();
    var page_b_y = vec4<f32>();
    var page_b_z = vec4<f32>();
    var page_b_w = vec4<f32>();
    let first_values = begin / VALUE_KEYS * VALUE_KEYS;
    for (var first = first_values; first <= end; first += VALUE_KEYS) {
      let v_0 = fetch_v(block, first, begin, end, invocation);
      var v_1 = vec4<f32>();
      if (FEW_REGISTERS == 0u) {
        v_1 = fetch_v(block, first, begin, end, invocation + WORKGROUP);
      }
      workgroupBarrier();   // what the stage held was read
      row_stage[invocation] = v_0;
      if (FEW_REGISTERS == 0u) {
        row_stage[invocation + WORKGROUP] = v_1;
      }
      workgroupBarrier();
      for (var j = 0u; j < VALUE_KEYS; j += 1u) {
        let p = key_stage[(first + j) * ROW_STRIDE + group];
        let value_a = row_stage[j * VALUE_QUADS + lane];
        page_a_x = fma(p, vec4<f32>(value_a.x), page_a_x);
        page_a_y = fma(p, vec4<f32>(value_a.y), page_a_y);
        page_a_z = fma(p, vec4<f32>(value_a.z), page_a_z);
        page_a_w = fma(p, vec4<f32>(value_a.w), page_a_w);
        if (FEW_REGISTERS == 0u) {
          let value_b = row_stage[j * VALUE_QUADS + lane + LANES];
          page_b_x = fma(p, vec4<f32>(value_b.x), page_b_x);
          page_b_y = fma(p, vec4<f32>(value_b.y), page_b_y);
          page_b_z = fma(p, vec4<f32>(value_b.z), page_b_z);
          page_b_w = fma(p, vec4<f32>(value_b.w), page_b_w);
        }
      }
    }
    o_a_x = folded(o_a_x, page_a_x, fold);
    o_a_y = folded(o_a_y, page_a_y, fold);
    o_a_z = folded(o_a_z, page_a_z, fold);
    o_a_w = folded(o_a_w, page_a_w, fold);
    if (FEW_REGISTERS == 0u) {
      o_b_x = folded(o_b_x, page_b_x, fold);
      o_b_y = folded(o_b_y, page_b_y, fold);
      o_b_z = folded(o_b_z, page_b_z, fold);
      o_b_w = folded(o_b_w, page_b_w, fold);
    }
  }

  // Half the rows at a time.
  let outputs = outputs_of(head);
  for (var part = 0u; part < 2u; part += 1u) {
    workgroupBarrier();   // what is there was read
    let to = group % 4u * MOST_FEATURES + 4u * lane;
    if (group / 4u == part) {
      key_stage[to] = o_a_x / l;
      key_stage[to + 1u] = o_a_y / l;
      key_stage[to + 2u] = o_a_z / l;
      key_stage[to + 3u] = o_a_w / l;
      if (FEW_REGISTERS == 0u) {
        key_stage[to + 64u] = o_b_x / l;
        key_stage[to + 65u] = o_b_y / l;
        key_stage[to + 66u] = o_b_z / l;
        key_stage[to + 67u] = o_b_w / l;
      }
    }
    workgroupBarrier();
    let first = part * 16u;
    let rows = min(max(count, first) - first, 16u);
    for (var i = invocation; i < rows * outputs; i += WORKGROUP) {
      let r = i / outputs;
      store(first_row + first + r, r, head, i % outputs);
    }
  }
}
