// prefill_coop16.wgsl, written as output_flat.wgsl says. Contract: attention_coop16.wgsl, paged_attention.wgsl.

enable f16;
enable wgpu_cooperative_matrix;

@group(0) @binding(7) var<storage, read> map: array<u32>;
@group(0) @binding(8) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn attention_prefill_coop16_flat(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(workgroup.x, workgroup.y, Place(invocation, num_subgroups, subgroup));
}
