// What attention_decode.wgsl and attention_prefill.wgsl share. Both compute, for query head h of row t,
//
//   y[t, h, :] = sum over visible keys j of softmax_j(scale * q[t, h, :] . k[j, :]) * v[j, :]
//
//   row_info        [rows]                          vec2<u32> (sequence, position)
//   block_table     [sequences, table_stride]       u32, the page of keys 64 * i .. 64 * (i + 1) of a sequence
//   qkv             [rows, stride]                  f32, the q heads first
//   k_pool, v_pool  [pages, kv_heads] blocks        the 64 keys of a kv head in a page: pools_f32.wgsl, pools_f16.wgsl, pools_i8.wgsl
//   y               [rows, heads * head_dim]        f32, or the integers of the linear that follows: output_float.wgsl, output_flat.wgsl
//
// Key j is visible if j <= position and (window == 0 or j > position - window). kv head = h / (heads / kv_heads).
// head_dim is even, and at most MAX_HEAD_DIM.
//
// One order of operations, so that a row's bits do not depend on whether it is prefilled or decoded, nor on its company:
//
//   for each page with a visible key, in ascending order, with j over the keys of the page and d over features:
//     score_j = scale * (k_scale_j * (chain of fma over ascending d of q[d] * k[j, d]))
//     m_p = max of score_j over visible j,  p_j = exp(score_j - m_p), 0 for hidden j
//     l_p = sum of p_j by pairwise halving over the 64 keys
//     o_p[d] = chain of fma over ascending j of (p_j * v_scale_j) * v[j, d]
//   the first such page sets (m, l, o) = (m_p, l_p, o_p); each further one is folded in:
//     M = max(m, m_p),  a = exp(m - M),  b = exp(m_p - M)
//     l = fma(l, a, l_p * b),  o[d] = fma(o[d], a, o_p[d] * b),  m = M
//   y[d] = o[d] / l
//
// k and v are what the pool holds, k_scale_j and v_scale_j what it multiplies them with: 1 for floats.
//
// Scores pass through workgroup memory before exp, so that no compiler contracts the product with the subtraction.

const PAGE_SIZE: u32 = 64u;
const MAX_HEAD_DIM: u32 = 256u;
// Stands for the score of a hidden key in a maximum: near the lowest f32.
const LOWEST: f32 = -3.4e38;

@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> block_table: array<u32>;
@group(0) @binding(3) var<storage, read> qkv: array<f32>;

// The first key that a row at that position sees.
fn first_visible(position: u32) -> u32 {
  if (params.window == 0u || position < params.window) {
    return 0u;
  }
  return position + 1u - params.window;
}

// The block of that kv head in that page of a sequence.
fn block_of(table_entry: u32, kv_head: u32) -> u32 {
  return block_table[table_entry] * params.kv_heads + kv_head;
}
