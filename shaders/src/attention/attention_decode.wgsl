// paged_attention.wgsl, one row at a time: an invocation owns a key of a page for the scores, then pairs of features for the sums.
// What follows is shared by the attention_decode_* kernels.
//
// grid: (heads, rows, 1), one workgroup of 64 per head of a row.

const LANES: u32 = 64u;
// Features of K that are staged at once, in quads of four; a row of the stage has one more quad, against bank conflicts.
const STAGE_QUADS: u32 = 8u;
const STAGE_STRIDE: u32 = STAGE_QUADS + 1u;
// Values of a feature that are loaded before they are summed.
const AHEAD: u32 = 16u;
const PAIRS_PER_LANE: u32 = MAX_HEAD_DIM / 2u / LANES;

var<workgroup> info: vec2<u32>;
// The row's query head; at the end its output.
var<workgroup> q: array<f32, MAX_HEAD_DIM>;
var<workgroup> k_stage: array<vec4<f32>, PAGE_SIZE * STAGE_STRIDE>;
// Scores of the page, then p * v_scale.
var<workgroup> weights: array<f32, PAGE_SIZE>;
var<workgroup> tree: array<f32, PAGE_SIZE>;

// q . k of the invocation's key. Every invocation calls it.
fn score(block: u32, lane: u32) -> f32 {
  let quads = (params.head_dim + 3u) / 4u;
  var dot = 0.0;
  for (var first = 0u; first < quads; first += STAGE_QUADS) {
    let count = min(STAGE_QUADS, quads - first);
    workgroupBarrier();   // the last stage was read
    for (var i = lane; i < PAGE_SIZE * STAGE_QUADS; i += LANES) {
      let key = i / STAGE_QUADS;
      let quad = i % STAGE_QUADS;
      if (quad < count) {
        k_stage[key * STAGE_STRIDE + quad] = load_k_quad(block, key, first + quad);
      }
    }
    workgroupBarrier();
    for (var quad = 0u; quad < count; quad += 1u) {
      let k = k_stage[lane * STAGE_STRIDE + quad];
      let d = (first + quad) * 4u;
      dot = fma(q[d], k.x, dot);
      dot = fma(q[d + 1u], k.y, dot);
      dot = fma(q[d + 2u], k.z, dot);
      dot = fma(q[d + 3u], k.w, dot);
    }
  }
  return dot;
}

// Maximum over the workgroup. Every invocation calls it; every invocation gets the maximum.
fn keys_max(lane: u32, value: f32) -> f32 {
  tree[lane] = value;
  workgroupBarrier();
  for (var stride = PAGE_SIZE / 2u; stride > 0u; stride /= 2u) {
    if (lane < stride) {
      tree[lane] = max(tree[lane], tree[lane + stride]);
    }
    workgroupBarrier();
  }
  let result = tree[0];
  workgroupBarrier();   // before the tree is used again
  return result;
}

// Sum over the workgroup by pairwise halving. Every invocation calls it; every invocation gets the sum.
fn keys_sum(lane: u32, value: f32) -> f32 {
  tree[lane] = value;
  workgroupBarrier();
  for (var stride = PAGE_SIZE / 2u; stride > 0u; stride /= 2u) {
    if (lane < stride) {
      tree[lane] = tree[lane] + tree[lane + stride];
    }
    workgroupBarrier();
  }
  let result = tree[0];
  workgroupBarrier();   // before the tree is used again
  return result;
}

fn attended(r: u32, d: u32) -> f32 {
  return q[d];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lane: u32) {
  let pairs = params.head_dim / 2u;
  let kv_head = head / (params.heads / params.kv_heads);
  if (lane == 0u) {
    info = row_info[row];
  }
  // Zeros past head_dim, up to whole quads.
  for (var d = lane; d < MAX_HEAD_DIM; d += LANES) {
    var value = 0.0;
    if (d < params.head_dim) {
      value = qkv[row * params.stride + head * params.head_dim + d];
    }
    q[d] = value;
  }
  let row_at = workgroupUniformLoad(&info);
  let position = row_at.y;
  let first_key = first_visible(position);
  let first_page = first_key / PAGE_SIZE;
  let last_page = position / PAGE_SIZE;

  var m = 0.0;
  var l = 0.0;
  var o = array<vec2<f32>, PAIRS_PER_LANE>();
  for (var page = first_page; page <= last_page; page += 1u) {
    let block = block_of(row_at.x * params.table_stride + page, kv_head);
    let key = page * PAGE_SIZE + lane;
    let visible = key >= first_key && key <= position;
    weights[lane] = params.scale * (k_scale(block, lane) * score(block, lane));
    workgroupBarrier();
    let score_j = weights[lane];
    let m_p = keys_max(lane, select(LOWEST, score_j, visible));
    let p = select(0.0, exp(score_j - m_p), visible);
    weights[lane] = p * v_scale(block, lane);
    let l_p = keys_sum(lane, p);

    let m_both = max(m, m_p);
    let a = exp(m - m_both);
    let b = exp(m_p - m_both);
    let is_first = page == first_page;
    m = select(m_both, m_p, is_first);
    l = select(fma(l, a, l_p * b), l_p, is_first);
    let begin = max(first_key, page * PAGE_SIZE) % PAGE_SIZE;
    let end = min(position - page * PAGE_SIZE, PAGE_SIZE - 1u);
    for (var i = 0u; i < PAIRS_PER_LANE; i += 1u) {
      let pair = i * LANES + lane;
      if (pair < pairs) {
        var o_p = vec2<f32>();
        var j = begin;
        // Loads ahead of the chain, so that it does not wait for each.
        for (; j + AHEAD <= end + 1u; j += AHEAD) {
          var v = array<vec2<f32>, AHEAD>();
          for (var k = 0u; k < AHEAD; k += 1u) {
            v[k] = load_v_pair(block, j + k, pair);
          }
          for (var k = 0u; k < AHEAD; k += 1u) {
            o_p = fma(vec2<f32>(weights[j + k]), v[k], o_p);
          }
        }
        for (; j <= end; j += 1u) {
          o_p = fma(vec2<f32>(weights[j]), load_v_pair(block, j, pair), o_p);
        }
        o[i] = select(fma(o[i], vec2<f32>(a), o_p * b), o_p, is_first);
      }
    }
  }

  // The barriers after the last scores let the output take the place of q.
  for (var i = 0u; i < PAIRS_PER_LANE; i += 1u) {
    let pair = i * LANES + lane;
    if (pair < pairs) {
      q[2u * pair] = o[i].x / l;
      q[2u * pair + 1u] = o[i].y / l;
    }
  }
  workgroupBarrier();
  let outputs = outputs_of(head);
  for (var i = lane; i < outputs; i += LANES) {
    store(row, 0u, head, i);
  }
}
