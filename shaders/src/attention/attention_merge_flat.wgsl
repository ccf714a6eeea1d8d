// merge.wgsl, written as output_flat.wgsl says. Contract: merge.wgsl.

@group(0) @binding(3) var<storage, read> map: array<u32>;
@group(0) @binding(4) var<storage, read_write> x_q: array<u32>;

@compute @workgroup_size(128)
fn attention_merge_flat(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  run(workgroup.x, workgroup.y, lane);
}
