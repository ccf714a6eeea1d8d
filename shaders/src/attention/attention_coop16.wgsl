// paged_attention.wgsl on cooperative matrices of f16 with sums in f32, over the pools of pools_f16.wgsl. The formula and the shapes are
// the same, the order of operations is another one, of all kernels on these matrices:
//
//   q is scaled and rounded to halves first
//   for each page with a visible key, in ascending order:
//     score_j = sums over 16 features each, in ascending order, each added to what was there as the device does it
//     m_p = max of score_j over visible j,  p_j = the half of exp(score_j - m_p), 0 for hidden j
//     l_p = sum of p_j: weights_sum
//     o_p = sums over 16 keys each, as those of the scores
//   folded as there
//
// What a matrix makes of a row does not depend on its other rows, and what is 0 adds nothing, so a row's bits depend neither on its tile
// nor on what the tile's other rows see.
// head_dim is a multiple of 16, and at most MOST_HEAD_DIM. What is visible is finite.

alias FragRows = coop_mat16x16<f16, A>;
alias FragColumns = coop_mat16x16<f16, B>;
alias FragSum = coop_mat16x16<f32, C>;

const MOST_HEAD_DIM: u32 = 128u;
// Rows and columns of a matrix.
const FRAG: u32 = 16u;
// vec4s of a row of a matrix.
const FRAG_QUADS: u32 = 4u;
const HEAD_QUADS: u32 = MOST_HEAD_DIM / 4u;
// vec4s of a row of a tile: two more, against bank conflicts.
const STRIDE: u32 = HEAD_QUADS + 2u;
const WEIGHT_STRIDE: u32 = PAGE_SIZE / 4u + 2u;
const SUM_STRIDE: u32 = PAGE_SIZE / 4u + 2u;
const LARGEST_HALF: f32 = 65504.0;

@group(0) @binding(4) var<storage, read> k_pool: array<vec4<f16>>;
@group(0) @binding(5) var<storage, read> v_pool: array<vec4<f16>>;

// Two rounded to halves, of which no compiler or driver may make another rounding.
fn two_halves(a: f32, b: f32) -> vec2<f16> {
  let low = clamp(a, -LARGEST_HALF, LARGEST_HALF);
  let high = clamp(b, -LARGEST_HALF, LARGEST_HALF);
  return vec2<f16>(unpack2x16float(half_bits(bitcast<u32>(low)) | (half_bits(bitcast<u32>(high)) << 16u)));
}

// Sum of weights whose quads are four apart: a part of a row's.
fn part_sum(a: vec4<f16>, b: vec4<f16>, c: vec4<f16>, d: vec4<f16>) -> f32 {
  let sum = (vec4<f32>(a) + vec4<f32>(b)) + (vec4<f32>(c) + vec4<f32>(d));
  return (sum.x + sum.y) + (sum.z + sum.w);
}

// Of the four parts of a row.
fn weights_sum(parts: vec4<f32>) -> f32 {
  return (parts.x + parts.y) + (parts.z + parts.w);
}

fn largest(x: vec4<f32>) -> f32 {
  return max(max(x.x, x.y), max(x.z, x.w));
}
