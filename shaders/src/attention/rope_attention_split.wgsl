// rope_attention.wgsl with a page of a row in each workgroup: what it gives of each head, for attention_merge.wgsl.
//
//   partials  [rows, heads, slots, head_dim + 2] f32: m_p, l_p, o_p of page first + slot, first the first page with a visible key;
//             slots of pages that the row does not see are not written
//
// What follows is shared by the rope_attention_f16_split kernels, which store what they found.

const TEAMS: u32 = 1u;

@group(0) @binding(7) var<storage, read_write> partials: array<f32>;

// Of a head, from word `at` on.
fn store_head(at: u32, lane: u32, m: f32, l: f32, a: f32, b: f32) {
  if (lane == 0u) {
    partials[at] = m;
    partials[at + 1u] = l;
  }
  if (lane < HEAD_DIM / 2u) {
    partials[at + 2u + 2u * lane] = a;
    partials[at + 3u + 2u * lane] = b;
  }
}

// Every invocation of the workgroup calls it; `part` is what it has of the heads.
fn run(part: u32, row: u32, slot: u32, slots: u32, lane: u32) {
  let half = HEAD_DIM / 2u;
  let i = min(lane, half - 1u);
  // Loads go ahead of what waits for one of them.
  let a = load_query(row, part, i);
  let b = load_query(row, part, i + half);
  let row_at = row_info[row];
  let position = row_at.y;
  let first_key = first_visible(position);
  let at = first_key / PAGE_SIZE + slot;
  let last_page = position / PAGE_SIZE;
  if (at > last_page) {
    return;
  }
  let block = block_of(row_at.x * params.table_stride + at, kv_head_of(part));
  let turn = rope_table[position * half + i];
  let page = page_of(at, block, position, first_key);
  let loaded = load_page(page, lane);
  if (lane < half) {
    rotate_query(a, b, turn, lane);
  }
  if (at == last_page) {
    make_new(load_new(row, kv_head_of(part), i), turn, lane);
    if (appends(part)) {
      append(block, page.new_key, lane);
    }
  }
  store_partial(row, part, slot, slots, lane, attend_page(page, true, loaded, page.end, 0u, lane));
}
