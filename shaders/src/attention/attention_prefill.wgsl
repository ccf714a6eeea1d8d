// paged_attention.wgsl, up to eight rows at a time: rows of a tile are consecutive positions of one sequence, and share what is read
// of K and V. An invocation owns a key of a page and four rows for the scores, then pairs of features and four rows for the sums.
// What follows is shared by the attention_prefill_* kernels.
//
//   tiles  [num_tiles] vec2<u32> (first_row, count), count <= 8; nothing is done where count is 0
//
// grid: (heads, num_tiles, 1), one workgroup of 128 per head of a tile.

const LANES: u32 = 64u;
// Groups of LANES invocations, each with four rows of the tile.
const GROUPS: u32 = 2u;
// Features of K that are staged at once, in quads of four; a row of the stage has one more quad, against bank conflicts.
const STAGE_QUADS: u32 = 4u;
const STAGE_STRIDE: u32 = STAGE_QUADS + 1u;
const PAIRS_PER_LANE: u32 = MAX_HEAD_DIM / 2u / LANES;

@group(0) @binding(6) var<storage, read> tiles: array<vec2<u32>>;

// (first row, count, sequence, first position)
var<workgroup> tile: vec4<u32>;
// The rows' query heads; at the end their outputs. Four rows in an element: q[d * GROUPS + group].
var<workgroup> q: array<vec4<f32>, MAX_HEAD_DIM * GROUPS>;
// Scores of the page, then p * v_scale. Four rows in an element: weights[key * GROUPS + group].
var<workgroup> weights: array<vec4<f32>, PAGE_SIZE * GROUPS>;
// First the stage of K, [PAGE_SIZE][STAGE_STRIDE] quads of features; then the trees, as weights.
var<workgroup> scratch: array<vec4<f32>, PAGE_SIZE * STAGE_STRIDE>;

// q . k of the invocation's key and rows. Every invocation calls it, after all are done with scratch.
fn scores(block: u32, lane: u32, group: u32) -> vec4<f32> {
  let quads = (params.head_dim + 3u) / 4u;
  var dot = vec4<f32>();
  for (var first = 0u; first < quads; first += STAGE_QUADS) {
    let count = min(STAGE_QUADS, quads - first);
    workgroupBarrier();   // the last stage was read
    for (var i = group * LANES + lane; i < PAGE_SIZE * STAGE_QUADS; i += LANES * GROUPS) {
      let key = i / STAGE_QUADS;
      let quad = i % STAGE_QUADS;
      if (quad < count) {
        scratch[key * STAGE_STRIDE + quad] = load_k_quad(block, key, first + quad);
      }
    }
    workgroupBarrier();
    for (var quad = 0u; quad < count; quad += 1u) {
      let k = scratch[lane * STAGE_STRIDE + quad];
      let d = (first + quad) * 4u;
      dot = fma(q[d * GROUPS + group], vec4<f32>(k.x), dot);
      dot = fma(q[(d + 1u) * GROUPS + group], vec4<f32>(k.y), dot);
      dot = fma(q[(d + 2u) * GROUPS + group], vec4<f32>(k.z), dot);
      dot = fma(q[(d + 3u) * GROUPS + group], vec4<f32>(k.w), dot);
    }
  }
  return dot;
}

// Maximum over the keys, for each row. Every invocation calls it; every invocation gets the maxima of its rows.
fn page_max(lane: u32, group: u32, value: vec4<f32>) -> vec4<f32> {
  let index = lane * GROUPS + group;
  scratch[index] = value;
  workgroupBarrier();
  for (var stride = PAGE_SIZE / 2u; stride > 0u; stride /= 2u) {
    if (lane < stride) {
      scratch[index] = max(scratch[index], scratch[index + stride * GROUPS]);
    }
    workgroupBarrier();
  }
  let result = scratch[group];
  workgroupBarrier();   // before scratch is used again
  return result;
}

// Sum over the keys by pairwise halving, for each row. Every invocation calls it; every invocation gets the sums of its rows.
fn page_sum(lane: u32, group: u32, value: vec4<f32>) -> vec4<f32> {
  let index = lane * GROUPS + group;
  scratch[index] = value;
  workgroupBarrier();
  for (var stride = PAGE_SIZE / 2u; stride > 0u; stride /= 2u) {
    if (lane < stride) {
      scratch[index] = scratch[index] + scratch[index + stride * GROUPS];
    }
    workgroupBarrier();
  }
  let result = scratch[group];
  workgroupBarrier();   // before scratch is used again
  return result;
}

// q of one row of the tile, zeros for rows past its end and features past head_dim.
fn load_q(first_row: u32, count: u32, row: u32, head: u32, d: u32) -> f32 {
  if (row < count && d < params.head_dim) {
    return qkv[(first_row + row) * params.stride + head * params.head_dim + d];
  }
  return 0.0;
}

fn attended(r: u32, d: u32) -> f32 {
  return q[d * GROUPS + r / 4u][r % 4u];
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
  for (var i = invocation; i < MAX_HEAD_DIM * GROUPS; i += LANES * GROUPS) {
    let d = i % MAX_HEAD_DIM;
    let row = i / MAX_HEAD_DIM * 4u;
    q[d * GROUPS + i / MAX_HEAD_DIM] = vec4<f32>(
      load_q(first_row, count, row, head, d),
      load_q(first_row, count, row + 1u, head, d),
      load_q(first_row, count, row + 2u, head, d),
      load_q(first_row, count, row + 3u, head, d),
    );
  }
  workgroupBarrier();

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
  var o_even = array<vec4<f32>, PAIRS_PER_LANE>();
  var o_odd = array<vec4<f32>, PAIRS_PER_LANE>();
  for (var page = first_key / PAGE_SIZE; page <= last_page; page += 1u) {
    let block = block_of(at.z * params.table_stride + page, kv_head);
    let key = vec4<u32>(page * PAGE_SIZE + lane);
    let visible = (key >= first_keys) & (key <= positions);
    let index = lane * GROUPS + group;
    weights[index] = params.scale * (k_scale(block, lane) * scores(block, lane, group));
    workgroupBarrier();
    let score_j = weights[index];
    let m_p = page_max(lane, group, select(vec4<f32>(LOWEST), score_j, visible));
    let p = select(vec4<f32>(), exp(score_j - m_p), visible);
    weights[index] = p * v_scale(block, lane);
    let l_p = page_sum(lane, group, p);

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
    for (var i = 0u; i < PAIRS_PER_LANE; i += 1u) {
      let pair = i * LANES + lane;
      if (pair < pairs) {
        var even = vec4<f32>();
        var odd = vec4<f32>();
        for (var j = begin; j <= end; j += 1u) {
          let p_j = weights[j * GROUPS + group];
          let v = load_v_pair(block, j, pair);
          even = fma(p_j, vec4<f32>(v.x), even);
          odd = fma(p_j, vec4<f32>(v.y), odd);
        }
        o_even[i] = select(select(o_even[i], fma(o_even[i], a, even * b), is_later), even, is_first);
        o_odd[i] = select(select(o_odd[i], fma(o_odd[i], a, odd * b), is_later), odd, is_first);
      }
    }
  }

  // The barriers after the last scores let the outputs take the place of q.
  for (var i = 0u; i < PAIRS_PER_LANE; i += 1u) {
    let pair = i * LANES + lane;
    if (pair < pairs) {
      q[2u * pair * GROUPS + group] = o_even[i] / l;
      q[(2u * pair + 1u) * GROUPS + group] = o_odd[i] / l;
    }
  }
  workgroupBarrier();
  let outputs = outputs_of(head);
  for (var i = invocation; i < count * outputs; i += LANES * GROUPS) {
    let r = i / outputs;
    store(first_row + r, r, head, i % outputs);
  }
}
