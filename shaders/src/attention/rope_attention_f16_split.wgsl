// rope_attention.wgsl with the pages of a row in several workgroups, four each: what each page gives, for attention_merge.wgsl.
//
//   partials  [rows, heads, slots, head_dim + 2] f32: m_p, l_p, o_p of page first + slot, first the first page with a visible key;
//             slots of pages that the row does not see are not written
//
// grid: (heads, rows, slots / 4), one workgroup of 256 per four pages of a head of a row.

@group(0) @binding(7) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(256)
fn rope_attention_f16_split(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) num_workgroups: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
) {
  let head = workgroup.x;
  let row = workgroup.y;
  let group = params.heads / params.kv_heads;
  let kv_head = head / group;
  let lane = lid % TEAM;
  let team = lid / TEAM;
  let row_at = row_info[row];
  let position = row_at.y;
  let first_key = first_visible(position);
  let first_page = first_key / PAGE_SIZE;
  let last_page = position / PAGE_SIZE;
  let round = first_page + workgroup.z * TEAMS;
  if (round > last_page) {
    return;
  }
  let own = load_turn(row, head, kv_head, position, lid);
  let found = attend_page(round + team, kv_head, row_at, first_key, own, true, lid);
  if (round + team <= last_page) {
    let slots = num_workgroups.z * TEAMS;
    let slot = workgroup.z * TEAMS + team;
    let at = ((row * params.heads + head) * slots + slot) * (params.head_dim + 2u);
    if (lane == 0u) {
      partials[at] = found.m;
      partials[at + 1u] = found.l;
    }
    if (lane < params.head_dim / 2u) {
      partials[at + 2u + 2u * lane] = found.o.x;
      partials[at + 3u + 2u * lane] = found.o.y;
    }
  }
  if (head % group == 0u && round + TEAMS > last_page) {
    append(block_of(row_at.x * params.table_stride + last_page, kv_head), position % PAGE_SIZE, lid);
  }
}
