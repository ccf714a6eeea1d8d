// Writes the k and v heads of each row to the KV pools, at the page and key of the row's position:
// k_pool[page, h, key, d] = qkv[t, k_offset + h * head_dim + d], v_pool likewise from v_offset,
// page = block_table[sequence, position / 64], key = position % 64.
//
//   row_info        [rows]                    vec2<u32> (sequence, position)
//   block_table     [sequences, table_stride] u32
//   qkv             [rows, stride]            u32, the bits of f32
//   k_pool, v_pool  [pages, kv_heads, 64, head_dim / FEATURES_PER_WORD] u32
//
// What follows is shared by kv_append_f32 and kv_append_f16, which differ in `word_of` and FEATURES_PER_WORD.
//
// grid: (ceil(kv_heads * head_dim / FEATURES_PER_WORD / 64), rows, 1), one invocation per word, of k and of v.

struct Params {
  rows: u32,
  kv_heads: u32,
  head_dim: u32,
  stride: u32,
  k_offset: u32,
  v_offset: u32,
  table_stride: u32,
}

const PAGE_SIZE: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> block_table: array<u32>;
@group(0) @binding(3) var<storage, read> qkv: array<u32>;
@group(0) @binding(4) var<storage, read_write> k_pool: array<u32>;
@group(0) @binding(5) var<storage, read_write> v_pool: array<u32>;

fn run(row: u32, word: u32) {
  let head_words = params.head_dim / FEATURES_PER_WORD;
  if (word >= params.kv_heads * head_words || row >= params.rows) {
    return;
  }
  let head = word / head_words;
  let info = row_info[row];
  let page = block_table[info.x * params.table_stride + info.y / PAGE_SIZE];
  let index = ((page * params.kv_heads + head) * PAGE_SIZE + info.y % PAGE_SIZE) * head_words + word % head_words;
  let feature = row * params.stride + word * FEATURES_PER_WORD;
  k_pool[index] = word_of(feature + params.k_offset);
  v_pool[index] = word_of(feature + params.v_offset);
}
