// attention_coop16.wgsl, up to 32 rows at a time, which are consecutive positions of one sequence.
// What follows is shared by the attention_prefill_coop16* kernels.
//
//   tiles  [num_tiles] vec2<u32> (first_row, count), count <= 32; nothing is done where count is 0
//
// grid: (heads, num_tiles, 1), one workgroup of 128 per head of a tile.

const ROWS: u32 = 32u;
// A product is made in blocks of 16 rows and 32 columns, a subgroup each. Of subgroups of other sizes than 32 there are more than
// blocks (then some compute a block again), or fewer (then there are more rounds).
const BLOCK_COLUMNS: u32 = 32u;
const BLOCKS: u32 = 4u;
// Features of the outputs that `sums` holds at once, in quads.
const TURN_QUADS: u32 = PAGE_SIZE / 4u;
// Rows whose outputs it holds at the end, and vec4s of each.
const OUT_ROWS: u32 = 16u;
const OUT_STRIDE: u32 = HEAD_QUADS + 1u;

@group(0) @binding(4) var<storage, read> k_pool: array<vec4<f16>>;
@group(0) @binding(5) var<storage, read> v_pool: array<vec4<f16>>;
@group(0) @binding(6) var<storage, read> tiles: array<vec2<u32>>;

// (first row, count, sequence, first position)
var<workgroup> tile: vec4<u32>;
var<workgroup> q_tile: array<vec4<f16>, ROWS * STRIDE>;
var<workgroup> weight_tile: array<vec4<f16>, ROWS * WEIGHT_STRIDE>;
// Scores, then sums of weighted values, then outputs.
var<workgroup> sums: array<vec4<f32>, ROWS * SUM_STRIDE>;
var<workgroup> part_max: array<f32, WORKGROUP>;
var<workgroup> part_sums: array<f32, WORKGROUP>;

// Four quads of a row of outputs.
struct Quads {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

// The rows' queries, zeros past the end of the tile.
fn stage_queries(first_row: u32, count: u32, head: u32, invocation: u32) {
  let quads = params.head_dim / 4u;
  for (var i = invocation; i < ROWS * HEAD_QUADS; i += WORKGROUP) {
    let row = i / HEAD_QUADS;
    let quad = i % HEAD_QUADS;
    var q = vec4<f16>();
    if (row < count && quad < quads) {
      let at = (first_row + row) * params.stride + head * params.head_dim + 4u * quad;
      q = query(vec4<f32>(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]));
    }
    q_tile[row * STRIDE + quad] = q;
  }
}

// Scores of all rows with the keys of page_tile, to sums.
fn multiply_keys(place: Place) {
  let quads = params.head_dim / 4u;
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let row = block / 2u * FRAG;
    let key = block % 2u * BLOCK_COLUMNS;
    var left = FragSum();
    var right = FragSum();
    for (var d = 0u; d < quads; d += FRAG_QUADS) {
      let q = coopLoadT<FragRows>(&q_tile[row * STRIDE + d], STRIDE);
      let k_left = coopLoad<FragColumns>(&page_tile[key * STRIDE + d], STRIDE);
      let k_right = coopLoad<FragColumns>(&page_tile[(key + FRAG) * STRIDE + d], STRIDE);
      left = coopMultiplyAdd(q, k_left, left);
      right = coopMultiplyAdd(q, k_right, right);
    }
    coopStoreT(left, &sums[row * SUM_STRIDE + key / 4u], SUM_STRIDE);
    coopStoreT(right, &sums[row * SUM_STRIDE + (key + FRAG) / 4u], SUM_STRIDE);
  }
}

// Sums of the weighted values of page_tile, of 64 features from first_quad on, to sums.
fn multiply_values(place: Place, first_quad: u32) {
  let end = min(params.head_dim / 4u, first_quad + TURN_QUADS);
  for (var round = 0u; round < BLOCKS; round += place.num_subgroups) {
    let block = (round + place.subgroup) % BLOCKS;
    let row = block / 2u * FRAG;
    let first = first_quad + block % 2u * (BLOCK_COLUMNS / 4u);
    let p_0 = coopLoadT<FragRows>(&weight_tile[row * WEIGHT_STRIDE], WEIGHT_STRIDE);
    let p_1 = coopLoadT<FragRows>(&weight_tile[row * WEIGHT_STRIDE + FRAG_QUADS], WEIGHT_STRIDE);
    let p_2 = coopLoadT<FragRows>(&weight_tile[row * WEIGHT_STRIDE + 2u * FRAG_QUADS], WEIGHT_STRIDE);
    let p_3 = coopLoadT<FragRows>(&weight_tile[row * WEIGHT_STRIDE + 3u * FRAG_QUADS], WEIGHT_STRIDE);
    for (var quad = first; quad < min(end, first + BLOCK_COLUMNS / 4u); quad += FRAG_QUADS) {
      var o = FragSum();
      o = coopMultiplyAdd(p_0, coopLoadT<FragColumns>(&page_tile[quad], STRIDE), o);
      o = coopMultiplyAdd(p_1, coopLoadT<FragColumns>(&page_tile[quad + FRAG * STRIDE], STRIDE), o);
      o = coopMultiplyAdd(p_2, coopLoadT<FragColumns>(&page_tile[quad + 2u * FRAG * STRIDE], STRIDE), o);
      o = coopMultiplyAdd(p_3, coopLoadT<FragColumns>(&page_tile[quad + 3u * FRAG * STRIDE], STRIDE), o);
      coopStoreT(o, &sums[row * SUM_STRIDE + quad - first_quad], SUM_STRIDE);
    }
  }
}

// Sums with those of a further page folded in: a is the factor of what was there, b that of the page.
fn folded_quad(o: vec4<f32>, a: f32, page: vec4<f32>, b: f32, is_first: bool, is_later: bool) -> vec4<f32> {
  return select(select(o, fma(o, vec4<f32>(a), page * b), is_later), page, is_first);
}

// The same for the four quads that the invocation has of what is in sums.
fn folded_quads(o: Quads, a: f32, b: f32, is_first: bool, is_later: bool, at: u32) -> Quads {
  return Quads(
    folded_quad(o.a, a, sums[at], b, is_first, is_later),
    folded_quad(o.b, a, sums[at + PARTS], b, is_first, is_later),
    folded_quad(o.c, a, sums[at + 2u * PARTS], b, is_first, is_later),
    folded_quad(o.d, a, sums[at + 3u * PARTS], b, is_first, is_later),
  );
}

fn attended(r: u32, d: u32) -> f32 {
  return sums[r * OUT_STRIDE + d / 4u][d % 4u];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, tile_index: u32, place: Place) {
  let invocation = place.invocation;
  let row = invocation / PARTS;
  let part = invocation % PARTS;
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

  // Of the invocation's row; rows past the end of the tile are computed as if they were there, and not stored.
  let position = at.w + row;
  let first_key = first_visible(position);
  // Of the whole tile.
  let last_position = at.w + count - 1u;
  let tile_first_key = first_visible(at.w);
  let last_page = last_position / PAGE_SIZE;

  var m = 0.0;
  var l = 0.0;
  var o_low = Quads();
  var o_high = Quads();
  var block = block_of(at.z * params.table_stride + tile_first_key / PAGE_SIZE, kv_head);
  var keys_low = load_some_keys(block, 0u, invocation);
  var keys_high = load_some_keys(block, PAGE_SIZE / 2u, invocation);
  stage_queries(first_row, count, head, invocation);
  for (var page = tile_first_key / PAGE_SIZE; page <= last_page; page += 1u) {
    workgroupBarrier();   // the values were read
    stage_keys(keys_low, 0u, invocation);
    stage_keys(keys_high, PAGE_SIZE / 2u, invocation);
    workgroupBarrier();
    let values_low = load_some_values(block, 0u, invocation);
    let values_high = load_some_values(block, PAGE_SIZE / 2u, invocation);
    multiply_keys(place);
    workgroupBarrier();
    // The keys that some row of the tile sees.
    let begin = max(tile_first_key, page * PAGE_SIZE) - page * PAGE_SIZE;
    let end = last_position - page * PAGE_SIZE;
    stage_values(values_low, 0u, begin, end, invocation);
    stage_values(values_high, PAGE_SIZE / 2u, begin, end, invocation);
    let own = row * SUM_STRIDE + part;
    let score_0 = sums[own];
    let score_1 = sums[own + PARTS];
    let score_2 = sums[own + 2u * PARTS];
    let score_3 = sums[own + 3u * PARTS];
    let key = page * PAGE_SIZE + 4u * part;
    let visible_0 = visible_quad(key, first_key, position);
    let visible_1 = visible_quad(key + 16u, first_key, position);
    let visible_2 = visible_quad(key + 32u, first_key, position);
    let visible_3 = visible_quad(key + 48u, first_key, position);
    let lowest = vec4<f32>(LOWEST);
    part_max[invocation] = largest(max(
      max(select(lowest, score_0, visible_0), select(lowest, score_1, visible_1)),
      max(select(lowest, score_2, visible_2), select(lowest, score_3, visible_3)),
    ));
    workgroupBarrier();
    let first_part = row * PARTS;
    let m_p = largest(vec4<f32>(part_max[first_part], part_max[first_part + 1u], part_max[first_part + 2u], part_max[first_part + 3u]));
    let none = vec4<f32>();
    let p_0 = vec4<f16>(select(none, exp(score_0 - m_p), visible_0));
    let p_1 = vec4<f16>(select(none, exp(score_1 - m_p), visible_1));
    let p_2 = vec4<f16>(select(none, exp(score_2 - m_p), visible_2));
    let p_3 = vec4<f16>(select(none, exp(score_3 - m_p), visible_3));
    let to = row * WEIGHT_STRIDE + part;
    weight_tile[to] = p_0;
    weight_tile[to + PARTS] = p_1;
    weight_tile[to + 2u * PARTS] = p_2;
    weight_tile[to + 3u * PARTS] = p_3;
    part_sums[invocation] = part_sum(p_0, p_1, p_2, p_3);
    workgroupBarrier();
    let l_p = weights_sum(vec4<f32>(part_sums[first_part], part_sums[first_part + 1u], part_sums[first_part + 2u], part_sums[first_part + 3u]));

    let m_both = max(m, m_p);
    let a = exp(m - m_both);
    let b = exp(m_p - m_both);
    // A row leaves pages alone that it does not see.
    let is_first = page == first_key / PAGE_SIZE;
    let is_later = page > first_key / PAGE_SIZE && page * PAGE_SIZE <= position;
    m = select(select(m, m_both, is_later), m_p, is_first);
    l = select(select(l, fma(l, a, l_p * b), is_later), l_p, is_first);
    // The next page's keys are on their way; after the last one they are its own.
    block = block_of(at.z * params.table_stride + min(page + 1u, last_page), kv_head);
    keys_low = load_some_keys(block, 0u, invocation);
    keys_high = load_some_keys(block, PAGE_SIZE / 2u, invocation);
    multiply_values(place, 0u);
    workgroupBarrier();
    o_low = folded_quads(o_low, a, b, is_first, is_later, own);
    if (params.head_dim > 4u * TURN_QUADS) {
      workgroupBarrier();   // the sums were read
      multiply_values(place, TURN_QUADS);
      workgroupBarrier();
      o_high = folded_quads(o_high, a, b, is_first, is_later, own);
    }
  }

  // Some rows at a time.
  let outputs = outputs_of(head);
  for (var first = 0u; first < count; first += OUT_ROWS) {
    workgroupBarrier();   // what is there was read
    if (row / OUT_ROWS == first / OUT_ROWS) {
      let to = row % OUT_ROWS * OUT_STRIDE + part;
      sums[to] = o_low.a / l;
      sums[to + PARTS] = o_low.b / l;
      sums[to + 2u * PARTS] = o_low.c / l;
      sums[to + 3u * PARTS] = o_low.d / l;
      sums[to + TURN_QUADS] = o_high.a / l;
      sums[to + TURN_QUADS + PARTS] = o_high.b / l;
      sums[to + TURN_QUADS + 2u * PARTS] = o_high.c / l;
      sums[to + TURN_QUADS + 3u * PARTS] = o_high.d / l;
    }
    workgroupBarrier();
    let rows = min(count - first, OUT_ROWS);
    for (var i = invocation; i < rows * outputs; i += WORKGROUP) {
      let r = i / outputs;
      store(first_row + first + r, r, head, i % outputs);
    }
  }
}
