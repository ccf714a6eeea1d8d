// rope.wgsl, kv_append.wgsl over pools_f16.wgsl, and a page of attention_coop16.wgsl in one dispatch, for rows of one sequence each: what
// each page gives, for attention_merge.wgsl. The row is the first of its matrices, whose other rows are zeros.
//
//   qkv             [rows, stride]               f32, before rope; it is not written
//   rope_table      [positions, half] vec2<f32>  (cos, sin), half = head_dim / 2
//   k_pool, v_pool  [pages, kv_heads] blocks     pools_f16.wgsl; the new key's place is not read: another workgroup may write it
//   partials        [rows, heads, slots, head_dim + 2] f32: m_p, l_p, o_p of page first + slot, first the first page with a visible
//                   key; slots of pages that the row does not see are not written
//
// grid: (heads, rows, slots), one workgroup of 128 per page of a head of a row.

enable f16;
enable wgpu_cooperative_matrix;

const SCORE_STRIDE: u32 = MOST_HEAD_DIM / 4u + 2u;
const HALF_GROUP: u32 = WORKGROUP / 2u;

@group(0) @binding(4) var<storage, read> rope_table: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> k_pool: array<vec4<f16>>;
@group(0) @binding(6) var<storage, read_write> v_pool: array<vec4<f16>>;
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;

var<workgroup> info: vec2<u32>;
// The row's query, then its new key.
var<workgroup> rotated: array<f32, 2u * MOST_HEAD_DIM>;
var<workgroup> q_tile: array<vec4<f16>, FRAG * STRIDE>;
var<workgroup> weight_tile: array<vec4<f16>, FRAG * WEIGHT_STRIDE>;
// Scores, then sums of weighted values.
var<workgroup> sums: array<vec4<f32>, FRAG * SCORE_STRIDE>;
var<workgroup> part_max: array<f32, PARTS>;
var<workgroup> part_sums: array<f32, PARTS>;

// The row's query and new key after rope.
fn rotate_both(row: u32, head: u32, kv_head: u32, position: u32, invocation: u32) {
  let half = params.head_dim / 2u;
  let i = invocation % HALF_GROUP;
  let of_key = invocation / HALF_GROUP == 1u;
  if (i < half) {
    let low = row * params.stride + select(head, params.heads + kv_head, of_key) * params.head_dim + i;
    let turn = rope_table[position * half + i];
    let a = qkv[low];
    let b = qkv[low + half];
    let at = select(0u, MOST_HEAD_DIM, of_key) + i;
    rotated[at] = fma(a, turn.x, -(b * turn.y));
    rotated[at + half] = fma(b, turn.x, a * turn.y);
  }
}

fn rotated_quad(at: u32) -> vec4<f32> {
  return vec4<f32>(rotated[at], rotated[at + 1u], rotated[at + 2u], rotated[at + 3u]);
}

fn add_product(scores: FragSum, d: u32, k: FragColumns) -> FragSum {
  return coopMultiplyAdd(coopLoadT<FragRows>(&q_tile[d], STRIDE), k, scores);
}

// Scores of the row, from page_tile.
fn score_keys(place: Place) {
  for (var key = place.subgroup * FRAG; key < PAGE_SIZE; key += place.num_subgroups * FRAG) {
    var scores = FragSum();
    for (var d = 0u; d < params.head_dim / 4u; d += FRAG_QUADS) {
      scores = add_product(scores, d, coopLoad<FragColumns>(&page_tile[key * STRIDE + d], STRIDE));
    }
    coopStoreT(scores, &sums[key / 4u], SCORE_STRIDE);
  }
}

// The same from the pool.
fn score_keys_of(block: u32, place: Place) {
  let quads = params.head_dim / 4u;
  let last = quads - FRAG_QUADS;
  for (var key = place.subgroup * FRAG; key < PAGE_SIZE; key += place.num_subgroups * FRAG) {
    let at = (block * PAGE_SIZE + key) * quads;
    let k_0 = coopLoad<FragColumns>(&k_pool[at + min(0u, last)], quads);
    let k_1 = coopLoad<FragColumns>(&k_pool[at + min(4u, last)], quads);
    let k_2 = coopLoad<FragColumns>(&k_pool[at + min(8u, last)], quads);
    let k_3 = coopLoad<FragColumns>(&k_pool[at + min(12u, last)], quads);
    let k_4 = coopLoad<FragColumns>(&k_pool[at + min(16u, last)], quads);
    let k_5 = coopLoad<FragColumns>(&k_pool[at + min(20u, last)], quads);
    let k_6 = coopLoad<FragColumns>(&k_pool[at + min(24u, last)], quads);
    let k_7 = coopLoad<FragColumns>(&k_pool[at + min(28u, last)], quads);
    var scores = add_product(FragSum(), 0u, k_0);
    if (quads > 4u) {
      scores = add_product(scores, 4u, k_1);
    }
    if (quads > 8u) {
      scores = add_product(scores, 8u, k_2);
    }
    if (quads > 12u) {
      scores = add_product(scores, 12u, k_3);
    }
    if (quads > 16u) {
      scores = add_product(scores, 16u, k_4);
    }
    if (quads > 20u) {
      scores = add_product(scores, 20u, k_5);
    }
    if (quads > 24u) {
      scores = add_product(scores, 24u, k_6);
    }
    if (quads > 28u) {
      scores = add_product(scores, 28u, k_7);
    }
    coopStoreT(scores, &sums[key / 4u], SCORE_STRIDE);
  }
}

// Sums of the weighted values of sixteen features.
fn weigh_values(quad: u32, v_0: FragColumns, v_1: FragColumns, v_2: FragColumns, v_3: FragColumns) {
  var o = FragSum();
  o = coopMultiplyAdd(coopLoadT<FragRows>(&weight_tile[0u], WEIGHT_STRIDE), v_0, o);
  o = coopMultiplyAdd(coopLoadT<FragRows>(&weight_tile[FRAG_QUADS], WEIGHT_STRIDE), v_1, o);
  o = coopMultiplyAdd(coopLoadT<FragRows>(&weight_tile[2u * FRAG_QUADS], WEIGHT_STRIDE), v_2, o);
  o = coopMultiplyAdd(coopLoadT<FragRows>(&weight_tile[3u * FRAG_QUADS], WEIGHT_STRIDE), v_3, o);
  coopStoreT(o, &sums[quad], SCORE_STRIDE);
}

// The values of keys 16 * part .. 16 * part + 16: in page_tile, and in a block of the pool.
fn staged_values(quad: u32, part: u32) -> FragColumns {
  return coopLoadT<FragColumns>(&page_tile[quad + part * FRAG * STRIDE], STRIDE);
}

fn values_of(block: u32, quad: u32, part: u32) -> FragColumns {
  let quads = params.head_dim / 4u;
  return coopLoadT<FragColumns>(&v_pool[(block * PAGE_SIZE + part * FRAG) * quads + quad], quads);
}

@compute @workgroup_size(WORKGROUP)
fn rope_attention_coop16_split(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) num_workgroups: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let place = Place(invocation, num_subgroups, subgroup);
  let head = workgroup.x;
  let row = workgroup.y;
  let group = params.heads / params.kv_heads;
  let kv_head = head / group;
  let quads = params.head_dim / 4u;
  if (invocation == 0u) {
    info = row_info[row];
  }
  let row_at = workgroupUniformLoad(&info);
  let position = row_at.y;
  let first_key = first_visible(position);
  let page = first_key / PAGE_SIZE + workgroup.z;
  let last_page = position / PAGE_SIZE;
  if (page > last_page) {
    return;
  }
  let block = block_of(row_at.x * params.table_stride + page, kv_head);
  // Where the new key is the page is staged, to put it in; other pages are read as they are, their values ahead.
  let is_last = page == last_page;
  let quad_0 = min(subgroup * FRAG_QUADS, quads - FRAG_QUADS);
  let quad_1 = min((subgroup + num_subgroups) * FRAG_QUADS, quads - FRAG_QUADS);
  var v_0 = FragColumns();
  var v_1 = FragColumns();
  var v_2 = FragColumns();
  var v_3 = FragColumns();
  var v_4 = FragColumns();
  var v_5 = FragColumns();
  var v_6 = FragColumns();
  var v_7 = FragColumns();
  if (is_last) {
    let low = load_some_keys(block, 0u, invocation);
    let high = load_some_keys(block, PAGE_SIZE / 2u, invocation);
    stage_keys(low, 0u, invocation);
    stage_keys(high, PAGE_SIZE / 2u, invocation);
  } else {
    v_0 = values_of(block, quad_0, 0u);
    v_1 = values_of(block, quad_0, 1u);
    v_2 = values_of(block, quad_0, 2u);
    v_3 = values_of(block, quad_0, 3u);
    v_4 = values_of(block, quad_1, 0u);
    v_5 = values_of(block, quad_1, 1u);
    v_6 = values_of(block, quad_1, 2u);
    v_7 = values_of(block, quad_1, 3u);
  }
  rotate_both(row, head, kv_head, position, invocation);
  for (var i = STRIDE + invocation; i < FRAG * STRIDE; i += WORKGROUP) {
    q_tile[i] = vec4<f16>();
  }
  for (var i = WEIGHT_STRIDE + invocation; i < FRAG * WEIGHT_STRIDE; i += WORKGROUP) {
    weight_tile[i] = vec4<f16>();
  }
  workgroupBarrier();
  let new_key = position % PAGE_SIZE;
  var new_v = vec4<f16>();
  if (invocation < quads) {
    q_tile[invocation] = query(rotated_quad(4u * invocation));
    if (is_last) {
      let new_k = rounded_halves(rotated_quad(MOST_HEAD_DIM + 4u * invocation));
      let at = row * params.stride + (params.heads + params.kv_heads + kv_head) * params.head_dim + 4u * invocation;
      new_v = rounded_halves(vec4<f32>(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]));
      page_tile[new_key * STRIDE + invocation] = new_k;
      if (head % group == 0u) {
        k_pool[(block * PAGE_SIZE + new_key) * quads + invocation] = new_k;
        v_pool[(block * PAGE_SIZE + new_key) * quads + invocation] = new_v;
      }
    }
  }
  workgroupBarrier();
  if (is_last) {
    score_keys(place);
  } else {
    score_keys_of(block, place);
  }
  workgroupBarrier();
  if (is_last) {
    let begin = max(first_key, page * PAGE_SIZE) - page * PAGE_SIZE;
    let end = position - page * PAGE_SIZE;
    stage_values(load_some_values(block, 0u, invocation), 0u, begin, end, invocation);
    stage_values(load_some_values(block, PAGE_SIZE / 2u, invocation), PAGE_SIZE / 2u, begin, end, invocation);
  }
  // What follows is done for one row.
  let part = invocation % PARTS;
  let score_0 = sums[part];
  let score_1 = sums[part + PARTS];
  let score_2 = sums[part + 2u * PARTS];
  let score_3 = sums[part + 3u * PARTS];
  let key = page * PAGE_SIZE + 4u * part;
  let visible_0 = visible_quad(key, first_key, position);
  let visible_1 = visible_quad(key + 16u, first_key, position);
  let visible_2 = visible_quad(key + 32u, first_key, position);
  let visible_3 = visible_quad(key + 48u, first_key, position);
  let lowest = vec4<f32>(LOWEST);
  if (invocation < PARTS) {
    part_max[part] = largest(max(
      max(select(lowest, score_0, visible_0), select(lowest, score_1, visible_1)),
      max(select(lowest, score_2, visible_2), select(lowest, score_3, visible_3)),
    ));
  }
  workgroupBarrier();
  let m_p = largest(vec4<f32>(part_max[0], part_max[1], part_max[2], part_max[3]));
  if (invocation < PARTS) {
    let none = vec4<f32>();
    let p_0 = vec4<f16>(select(none, exp(score_0 - m_p), visible_0));
    let p_1 = vec4<f16>(select(none, exp(score_1 - m_p), visible_1));
    let p_2 = vec4<f16>(select(none, exp(score_2 - m_p), visible_2));
    let p_3 = vec4<f16>(select(none, exp(score_3 - m_p), visible_3));
    weight_tile[part] = p_0;
    weight_tile[part + PARTS] = p_1;
    weight_tile[part + 2u * PARTS] = p_2;
    weight_tile[part + 3u * PARTS] = p_3;
    part_sums[part] = part_sum(p_0, p_1, p_2, p_3);
  }
  if (invocation < quads && is_last) {
    page_tile[new_key * STRIDE + invocation] = new_v;
  }
  workgroupBarrier();
  if (is_last) {
    v_0 = staged_values(quad_0, 0u);
    v_1 = staged_values(quad_0, 1u);
    v_2 = staged_values(quad_0, 2u);
    v_3 = staged_values(quad_0, 3u);
    v_4 = staged_values(quad_1, 0u);
    v_5 = staged_values(quad_1, 1u);
    v_6 = staged_values(quad_1, 2u);
    v_7 = staged_values(quad_1, 3u);
  }
  weigh_values(quad_0, v_0, v_1, v_2, v_3);
  weigh_values(quad_1, v_4, v_5, v_6, v_7);
  // Of features that so few subgroups have not yet.
  for (var quad = (subgroup + 2u * num_subgroups) * FRAG_QUADS; quad < quads; quad += num_subgroups * FRAG_QUADS) {
    if (is_last) {
      weigh_values(quad, staged_values(quad, 0u), staged_values(quad, 1u), staged_values(quad, 2u), staged_values(quad, 3u));
    } else {
      weigh_values(quad, values_of(block, quad, 0u), values_of(block, quad, 1u), values_of(block, quad, 2u), values_of(block, quad, 3u));
    }
  }
  workgroupBarrier();
  let at = ((row * params.heads + head) * num_workgroups.z + workgroup.z) * (params.head_dim + 2u);
  if (invocation == 0u) {
    partials[at] = m_p;
    partials[at + 1u] = weights_sum(vec4<f32>(part_sums[0], part_sums[1], part_sums[2], part_sums[3]));
  }
  if (invocation < params.head_dim) {
    partials[at + 2u + invocation] = sums[invocation / 4u][invocation % 4u];
  }
}
