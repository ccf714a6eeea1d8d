// rope_attention.wgsl with all pages of a row in one workgroup, four at a time, folded as paged_attention.wgsl says.
//
// grid: (heads, rows, 1), one workgroup of 256 per head of a row.

// Of each team; at the end the first is the output.
var<workgroup> team_o: array<vec2<f32>, TEAMS * TEAM>;
var<workgroup> team_m: array<f32, TEAMS>;
var<workgroup> team_l: array<f32, TEAMS>;

fn attended(r: u32, d: u32) -> f32 {
  return rotated[d];
}

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lid: u32) {
  let group = params.heads / params.kv_heads;
  let kv_head = head / group;
  let lane = lid % TEAM;
  let team = lid / TEAM;
  let row_at = row_info[row];
  let position = row_at.y;
  // Loads go ahead of what waits for one of them.
  let own = load_turn(row, head, kv_head, position, lid);
  let own_output = ahead(head, lid);
  let first_key = first_visible(position);
  let first_page = first_key / PAGE_SIZE;
  let last_page = position / PAGE_SIZE;

  var m = 0.0;
  var l = 0.0;
  var o = vec2<f32>();
  for (var round = first_page; round <= last_page; round += TEAMS) {
    let found = attend_page(round + team, kv_head, row_at, first_key, own, round == first_page, lid);
    team_o[lid] = found.o;
    if (lane == 0u) {
      team_m[team] = found.m;
      team_l[team] = found.l;
    }
    workgroupBarrier();
    // Every team folds: it is the same.
    for (var t = 0u; t < min(TEAMS, last_page + 1u - round); t += 1u) {
      let m_p = team_m[t];
      let l_p = team_l[t];
      let o_p = team_o[t * TEAM + lane];
      let m_both = max(m, m_p);
      let a = exp(m - m_both);
      let b = exp(m_p - m_both);
      let is_first = round + t == first_page;
      m = select(m_both, m_p, is_first);
      l = select(fma(l, a, l_p * b), l_p, is_first);
      o = select(fma(o, vec2<f32>(a), o_p * b), o_p, is_first);
    }
    workgroupBarrier();   // before the next partials
  }
  if (head % group == 0u) {
    append(block_of(row_at.x * params.table_stride + last_page, kv_head), position % PAGE_SIZE, lid);
  }
  // The query has been used: the output takes its place.
  if (lid < params.head_dim / 2u) {
    rotated[2u * lid] = o.x / l;
    rotated[2u * lid + 1u] = o.y / l;
  }
  workgroupBarrier();
  let outputs = outputs_of(head);
  if (lid < outputs) {
    store_ahead(row, 0u, head, own_output);
  }
  for (var i = lid + TEAMS * TEAM; i < outputs; i += TEAMS * TEAM) {
    store(row, 0u, head, i);
  }
}
