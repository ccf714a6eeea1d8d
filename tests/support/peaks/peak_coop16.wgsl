// Matrices of 16 by 16 f16 with sums in f32: peak_coop.wgsl, whose T is f32.
//
// grid: (groups, 1, 1)

enable f16;
enable wgpu_cooperative_matrix;

alias T = f32;
alias FragX = coop_mat16x16<f16, A>;
alias FragW = coop_mat16x16<f16, B>;
alias FragSum = coop_mat16x16<f32, C>;
alias Features = vec4<f16>;

const STRIDE: u32 = 4u;

fn features_of(i: u32) -> Features {
  return vec4<f16>(unpack4xI8(words[i]));
}

fn sum_of(stored: f32) -> f32 {
  return stored;
}

@compute @workgroup_size(WORKGROUP)
fn peak_coop16(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
  @builtin(num_subgroups) num_subgroups: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  run(group.x, invocation, num_subgroups, subgroup);
}
