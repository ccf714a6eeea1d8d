// rope_attention_split.wgsl, a head in each workgroup.
//
// grid: (heads, rows, slots), one workgroup of 64 per page of a head of a row.

fn store_partial(row: u32, head: u32, slot: u32, slots: u32, lane: u32, found: Partial) {
  let at = ((row * params.heads + head) * slots + slot) * (HEAD_DIM + 2u);
  store_head(at, lane, found.m, found.l, found.o.a, found.o.b);
}

@compute @workgroup_size(64)
fn rope_attention_f16_split(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) num_workgroups: vec3<u32>,
  @builtin(local_invocation_index) lid: u32,
) {
  run(workgroup.x, workgroup.y, workgroup.z, num_workgroups.z, lid);
}
