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
const WORKGROUP: u32 = 128u;
// Keys that the workgroup loads at once.
const LOAD_KEYS: u32 = WORKGROUP / HEAD_QUADS;
// Parts of a row's weights: each has every fourth quad.
const PARTS: u32 = 4u;

// The page's keys, then its values.
var<workgroup> page_tile: array<vec4<f16>, PAGE_SIZE * STRIDE>;

// Where an invocation stands.
struct Place {
  invocation: u32,
  num_subgroups: u32,
  subgroup: u32,
}

// Rounded to halves, in integers: a conversion may round either way.
fn rounded_halves(x: vec4<f32>) -> vec4<f16> {
  let bits = bitcast<vec4<u32>>(x);
  let low = unpack2x16float(half_bits(bits.x) | (half_bits(bits.y) << 16u));
  let high = unpack2x16float(half_bits(bits.z) | (half_bits(bits.w) << 16u));
  return vec4<f16>(vec4<f32>(low, high));
}

// A quad of a query, ready for the products.
fn query(q: vec4<f32>) -> vec4<f16> {
  return rounded_halves(clamp(params.scale * q, vec4<f32>(-LARGEST_HALF), vec4<f32>(LARGEST_HALF)));
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

fn visible_quad(key: u32, first_key: u32, position: u32) -> vec4<bool> {
  let keys = vec4<u32>(key) + vec4<u32>(0u, 1u, 2u, 3u);
  return (keys >= vec4<u32>(first_key)) & (keys <= vec4<u32>(position));
}

// A quad of each of eight keys that are LOAD_KEYS apart.
struct Keys {
  a: vec4<f16>,
  b: vec4<f16>,
  c: vec4<f16>,
  d: vec4<f16>,
  e: vec4<f16>,
  f: vec4<f16>,
  g: vec4<f16>,
  h: vec4<f16>,
}

// Index of the quad of a key that the invocation loads; past head_dim it is the last one, which is not used there.
fn loaded_quad(block: u32, first_key: u32, invocation: u32) -> u32 {
  let quads = params.head_dim / 4u;
  return (block * PAGE_SIZE + first_key + invocation / HEAD_QUADS) * quads + min(invocation % HEAD_QUADS, quads - 1u);
}

fn load_some_keys(block: u32, first_key: u32, invocation: u32) -> Keys {
  let at = loaded_quad(block, first_key, invocation);
  let step = LOAD_KEYS * (params.head_dim / 4u);
  return Keys(
    k_pool[at],
    k_pool[at + step],
    k_pool[at + 2u * step],
    k_pool[at + 3u * step],
    k_pool[at + 4u * step],
    k_pool[at + 5u * step],
    k_pool[at + 6u * step],
    k_pool[at + 7u * step],
  );
}

fn load_some_values(block: u32, first_key: u32, invocation: u32) -> Keys {
  let at = loaded_quad(block, first_key, invocation);
  let step = LOAD_KEYS * (params.head_dim / 4u);
  return Keys(
    v_pool[at],
    v_pool[at + step],
    v_pool[at + 2u * step],
    v_pool[at + 3u * step],
    v_pool[at + 4u * step],
    v_pool[at + 5u * step],
    v_pool[at + 6u * step],
    v_pool[at + 7u * step],
  );
}

fn stage_keys(keys: Keys, first_key: u32, invocation: u32) {
  let to = (first_key + invocation / HEAD_QUADS) * STRIDE + invocation % HEAD_QUADS;
  page_tile[to] = keys.a;
  page_tile[to + LOAD_KEYS * STRIDE] = keys.b;
  page_tile[to + 2u * LOAD_KEYS * STRIDE] = keys.c;
  page_tile[to + 3u * LOAD_KEYS * STRIDE] = keys.d;
  page_tile[to + 4u * LOAD_KEYS * STRIDE] = keys.e;
  page_tile[to + 5u * LOAD_KEYS * STRIDE] = keys.f;
  page_tile[to + 6u * LOAD_KEYS * STRIDE] = keys.g;
  page_tile[to + 7u * LOAD_KEYS * STRIDE] = keys.h;
}

// Zeros for a key that no row sees: what is there may be anything.
fn seen(value: vec4<f16>, key: u32, begin: u32, end: u32) -> vec4<f16> {
  return select(vec4<f16>(), value, key >= begin && key <= end);
}

fn stage_values(values: Keys, first_key: u32, begin: u32, end: u32, invocation: u32) {
  let key = first_key + invocation / HEAD_QUADS;
  let shown = Keys(
    seen(values.a, key, begin, end),
    seen(values.b, key + LOAD_KEYS, begin, end),
    seen(values.c, key + 2u * LOAD_KEYS, begin, end),
    seen(values.d, key + 3u * LOAD_KEYS, begin, end),
    seen(values.e, key + 4u * LOAD_KEYS, begin, end),
    seen(values.f, key + 5u * LOAD_KEYS, begin, end),
    seen(values.g, key + 6u * LOAD_KEYS, begin, end),
    seen(values.h, key + 7u * LOAD_KEYS, begin, end),
  );
  stage_keys(shown, first_key, invocation);
}
