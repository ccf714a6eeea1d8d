// rope_attention_split.wgsl, up to four query heads of one kv head in each workgroup, so that what is read of its keys and values serves them all.
//
// grid: (kv_heads * ceil(group / 4), rows, slots), group = heads / kv_heads, one workgroup of 64 per page of so many heads of a row.

alias Of = vec4<f32>;

// Workgroups of a kv head.
fn parts_of_group() -> u32 {
  return (params.heads / params.kv_heads + 3u) / 4u;
}

fn kv_head_of(part: u32) -> u32 {
  return part / parts_of_group();
}

// Whether the workgroup appends the new key and value of its kv head.
fn appends(part: u32) -> bool {
  return part % parts_of_group() == 0u;
}

// The first of its heads, and the first of the next kv head's.
fn heads_of(part: u32) -> vec2<u32> {
  let group = params.heads / params.kv_heads;
  let first = kv_head_of(part) * group;
  return vec2<u32>(first + 4u * (part % parts_of_group()), first + group);
}

// Feature d of the row's queries; of the last head past the end.
fn load_query(row: u32, part: u32, d: u32) -> vec4<f32> {
  let heads = heads_of(part);
  let head = min(vec4<u32>(heads.x) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(heads.y - 1u));
  let at = vec4<u32>(row * params.stride + d) + head * HEAD_DIM;
  return vec4<f32>(qkv[at.x], qkv[at.y], qkv[at.z], qkv[at.w]);
}

fn store_partial(row: u32, part: u32, slot: u32, slots: u32, lane: u32, found: Partial) {
  let heads = heads_of(part);
  let step = slots * (HEAD_DIM + 2u);
  let at = (row * params.heads + heads.x) * step + slot * (HEAD_DIM + 2u);
  store_head(at, lane, found.m.x, found.l.x, found.o.a.x, found.o.b.x);
  if (heads.x + 1u < heads.y) {
    store_head(at + step, lane, found.m.y, found.l.y, found.o.a.y, found.o.b.y);
  }
  if (heads.x + 2u < heads.y) {
    store_head(at + 2u * step, lane, found.m.z, found.l.z, found.o.a.z, found.o.b.z);
  }
  if (heads.x + 3u < heads.y) {
    store_head(at + 3u * step, lane, found.m.w, found.l.w, found.o.a.w, found.o.b.w);
  }
}

@compute @workgroup_size(64)
fn rope_attention_f16_split4(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) num_workgroups: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
) {
  run(workgroup.x, workgroup.y, workgroup.z, num_workgroups.z, lid);
}
