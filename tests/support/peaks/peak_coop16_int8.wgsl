// Matrices of 16 by 32 INT8 with sums in i32: peak_coop.wgsl, whose T is i32. What stands here are the stand-ins of
// gemm_coop16_int8.wgsl.
//
// grid: (groups, 1, 1)

enable wgpu_cooperative_matrix;

alias T = i32;
alias FragX = coop_mat16x16<f32, A>;
alias FragW = coop_mat16x16<f32, B>;
alias FragSum = coop_mat16x16<f32, C>;
alias Features = vec4<f32>;

const STRIDE: u32 = 2u;

fn features_of(i: u32) -> Features {
  return bitcast<vec4<f32>>(vec4<u32>(words[4u * i], words[4u * i + 1u], words[4u * i + 2u], words[4u * i + 3u]));
}

fn sum_of(stored: f32) -> i32 {
  return bitcast<i32>(stored);
}

@compute @workgroup_size(WORKGROUP)
fn peak_coop16_int8(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(group.x, invocation, num_subgroups, subgroup);
}
