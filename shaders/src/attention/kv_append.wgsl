// Writes the k and v heads of each row to the KV pools, at the page and key of the row's position:
// key `position % 64` of block page * kv_heads + h of k_pool = qkv[t, k_offset + h * head_dim + d] for all d,
// page = block_table[sequence, position / 64]; v_pool likewise from v_offset.
//
//   row_info        [rows]                    vec2<u32> (sequence, position)
//   block_table     [sequences, table_stride] u32
//   qkv             [rows, stride]            u32, the bits of f32
//   k_pool, v_pool  [pages, kv_heads] blocks  u32: pools_f32.wgsl, pools_f16.wgsl, pools_i8.wgsl
//
// What follows is shared by the kv_append_* kernels. head_dim is even, and at most 256. Their grids are (groups of heads, rows, 2), with k
// for z = 0 and v for z = 1.

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
const WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> block_table: array<u32>;
@group(0) @binding(3) var<storage, read> qkv: array<u32>;
@group(0) @binding(4) var<storage, read_write> k_pool: array<u32>;
@group(0) @binding(5) var<storage, read_write> v_pool: array<u32>;

fn write_word(of_v: bool, index: u32, word: u32) {
  if (of_v) {
    v_pool[index] = word;
  } else {
    k_pool[index] = word;
  }
}

// What a workgroup writes, and from where.
struct Place {
  of_v: bool,
  page: u32,
  key: u32,
  // Feature 0 of head 0.
  first_feature: u32,
}

fn place_of(row: u32, of_v: bool) -> Place {
  let info = row_info[row];
  let page = block_table[info.x * params.table_stride + info.y / PAGE_SIZE];
  return Place(of_v, page, info.y % PAGE_SIZE, row * params.stride + select(params.k_offset, params.v_offset, of_v));
}
