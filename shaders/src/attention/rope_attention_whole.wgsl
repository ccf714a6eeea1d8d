// rope_attention.wgsl with all pages of a row in one workgroup, TEAMS at a time, folded as paged_attention.wgsl says.
//
// grid: (heads, rows, 1), one workgroup of TEAMS * 64 per head of a row.

// 4 where an adapter has memory for them: a page each, of few.
override TEAMS: u32 = 2u;

// Of each team.
var<workgroup> team_o: array<vec2<f32>, TEAMS * TEAM>;
var<workgroup> team_m: array<f32, TEAMS>;
var<workgroup> team_l: array<f32, TEAMS>;

fn attended(r: u32, d: u32) -> f32 {
  return query[d];
}

// All that the head writes, by so many invocations; `own` is what the invocation has ahead. One text of what stores a word.
fn store_all(row: u32, head: u32, lane: u32, lanes: u32, own: Output) {
  var next = own;
  for (var i = lane; i < outputs_of(head); i += lanes) {
    store_ahead(row, 0u, head, next);
    next = ahead(head, i + lanes);
  }
}

// Every invocation of the workgroup calls it.
fn run(head: u32, row: u32, lid: u32) {
  let half = HEAD_DIM / 2u;
  let lane = lid % TEAM;
  let team = lid / TEAM;
  let i = min(lane, half - 1u);
  // Loads go ahead of what waits for one of them.
  let a = load_query(row, head, i);
  let b = load_query(row, head, i + half);
  let own_new = load_new(row, kv_head_of(head), i);
  let row_at = row_info[row];
  let position = row_at.y;
  let first_key = first_visible(position);
  let first_page = first_key / PAGE_SIZE;
  let last_page = position / PAGE_SIZE;
  let table = row_at.x * params.table_stride;
  let turn = rope_table[position * half + i];
  let own_output = ahead(head, lid);

  var m = 0.0;
  var l = 0.0;
  var o = vec2<f32>();
  for (var round = first_page; round <= last_page; round += TEAMS) {
    let has_page = round + team <= last_page;
    let at = min(round + team, last_page);
    let page = page_of(at, block_of(table + at, kv_head_of(head)), position, first_key);
    var loaded = Ahead();
    if (has_page) {
      loaded = load_page(page, lane);
    }
    if (round == first_page) {
      if (lid < half) {
        rotate_query(a, b, turn, lid);
      }
      make_new(own_new, turn, lid);
    }
    let last = select(position % PAGE_SIZE, PAGE_SIZE - 1u, round < last_page);
    let found = attend_page(page, has_page, loaded, last, team, lane);
    team_o[lid] = vec2<f32>(found.o.a, found.o.b);
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
      let by = vec2<f32>(exp(m - m_both), exp(m_p - m_both));
      let is_first = round + t == first_page;
      m = select(m_both, m_p, is_first);
      l = select(fma(l, by.x, l_p * by.y), l_p, is_first);
      o = select(fma(o, vec2<f32>(by.x), o_p * by.y), o_p, is_first);
    }
    workgroupBarrier();   // before the next partials
  }
  if (appends(head)) {
    append(block_of(table + last_page, kv_head_of(head)), position % PAGE_SIZE, lid);
  }
  // The query has been used: the output takes its place.
  if (lid < half) {
    query[2u * lid] = o.x / l;
    query[2u * lid + 1u] = o.y / l;
  }
  workgroupBarrier();
  store_all(row, head, lid, TEAMS * TEAM, own_output);
}
