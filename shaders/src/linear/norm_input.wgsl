// The input of a fused linear of one row: each workgroup makes x_q = flatten_quantize(rms_norm(x)) in its memory.
//
//   x       [in_features]       f32
//   weight  [in_features]       f32, of the norm
//   w, aux                      gemv_i4.wgsl, gemv_i8.wgsl, with a scale for each output
//   in_map  [in_flat_features]  u32, the map of ../quantize/flat_part.wgsl
//
// in_features is a multiple of 16. The sums and the roundings are those of rms_norm_flat.wgsl: part 0 of a channel is what clamping to
// q_max leaves of it, whatever parts follow. Kernels declare `params`, and include what sums over a workgroup.

// vec4s of sixteen channels without the extra ones, and with the extra ones and the zeros after them. As constants they leave out the loops
// that a width does not need: what is never run costs time too, where a layer's kernels are more text than a processor keeps.
override BULK_VECS: u32 = 64u;
override X_VECS: u32 = 64u;

const IN_SOURCE_MASK: u32 = 0xffffffu;
const IN_PART_SHIFT: u32 = 24u;
const IN_NO_PART: u32 = 0xffu;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> aux: array<u32>;
@group(0) @binding(5) var<storage, read> in_map: array<u32>;

var<workgroup> x_row: array<vec4<u32>, X_VECS>;

// Word of `aux` after the weight scales.
fn aux_bias() -> u32 {
  return select(1u, params.out_features, params.w_scale_stride != 0u);
}

// Sixteen products of i8.
fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

// Words of the row that the workgroup makes.
fn in_words() -> u32 {
  return 4u * X_VECS;
}

fn x_vec(row: u32, vec: u32) -> vec4<u32> {
  return x_row[vec];
}

// Part 0 of four channels.
fn bulk_word(value: vec4<f32>, inv: f32, norm: vec4<f32>) -> u32 {
  let limit = vec4<f32>(f32(params.in_q_max));
  return pack4xI8(vec4<i32>(round(clamp(value * inv * norm * params.in_inv_scale, -limit, limit))));
}

// What an extra channel is made of.
struct Extra {
  entry: u32,
  value: f32,
  norm: f32,
}

// The part of a channel; a channel past the end has none.
fn extra_entry(channel: u32) -> u32 {
  if (channel >= params.in_flat_features) {
    return IN_NO_PART << IN_PART_SHIFT;
  }
  return in_map[channel];
}

fn load_extra(entry: u32) -> Extra {
  let source = entry & IN_SOURCE_MASK;
  return Extra(entry, x[source / 4u][source % 4u], weight[source / 4u][source % 4u]);
}

// As flat_part of ../quantize/flat_part.wgsl.
fn extra_part(extra: Extra, inv: f32) -> i32 {
  let part = extra.entry >> IN_PART_SHIFT;
  if (part == IN_NO_PART) {
    return 0;
  }
  let before = part * params.in_q_max;
  let limit = f32(before + params.in_q_max);
  let q = i32(round(clamp(extra.value * inv * extra.norm * params.in_inv_scale, -limit, limit)));
  return sign(q) * max(abs(q) - i32(before), 0);
}

// The chain of squares.
fn add_squares(sum: f32, values: vec4<f32>) -> f32 {
  return fma(values.w, values.w, fma(values.z, values.z, fma(values.y, values.y, fma(values.x, values.x, sum))));
}

// Four features, or zeros past the end, which change no sum.
fn quad(i: u32) -> vec4<f32> {
  let quads = 4u * BULK_VECS;
  return select(vec4<f32>(), x[min(i, quads - 1u)], i < quads);
}

// Quads i, i + LANES, .. of a lane.
struct Quads {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

fn load_quads(i: u32) -> Quads {
  return Quads(quad(i), quad(i + LANES), quad(i + 2u * LANES), quad(i + 3u * LANES));
}

// workgroup_sum of workgroup_sum.wgsl: the same tree, by subgroups where one has 32 lanes.
fn sum_over_workgroup(lid: u32, subgroup_lane: u32, subgroup_lanes: u32, value: f32) -> f32 {
  if (subgroup_lanes != 32u) {
    return workgroup_sum(lid, value);
  }
  if (lid < LANES) {
    lane_sums[lid] = value;
  }
  workgroupBarrier();
  let i = subgroup_lane;
  let a = (lane_sums[i] + lane_sums[i + 128u]) + (lane_sums[i + 64u] + lane_sums[i + 192u]);
  let b = (lane_sums[i + 32u] + lane_sums[i + 160u]) + (lane_sums[i + 96u] + lane_sums[i + 224u]);
  var sum = a + b;
  sum = sum + subgroupShuffleXor(sum, 16u);
  sum = sum + subgroupShuffleXor(sum, 8u);
  sum = sum + subgroupShuffleXor(sum, 4u);
  sum = sum + subgroupShuffleXor(sum, 2u);
  return sum + subgroupShuffleXor(sum, 1u);
}

// Sixteen channels as they are.
struct Channels {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
  norm_a: vec4<f32>,
  norm_b: vec4<f32>,
  norm_c: vec4<f32>,
  norm_d: vec4<f32>,
}

fn load_channels(vec: u32) -> Channels {
  let at = 4u * vec;
  return Channels(
    x[at], x[at + 1u], x[at + 2u], x[at + 3u],
    weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u],
  );
}

fn bulk_vec(channels: Channels, inv: f32) -> vec4<u32> {
  return vec4<u32>(
    bulk_word(channels.a, inv, channels.norm_a),
    bulk_word(channels.b, inv, channels.norm_b),
    bulk_word(channels.c, inv, channels.norm_c),
    bulk_word(channels.d, inv, channels.norm_d),
  );
}

// A word of extra channels.
struct Extras {
  a: Extra,
  b: Extra,
  c: Extra,
  d: Extra,
}

fn extra_entries(word: u32) -> vec4<u32> {
  let channel = params.in_features + 4u * word;
  return vec4<u32>(extra_entry(channel), extra_entry(channel + 1u), extra_entry(channel + 2u), extra_entry(channel + 3u));
}

fn load_extras(entries: vec4<u32>) -> Extras {
  return Extras(load_extra(entries.x), load_extra(entries.y), load_extra(entries.z), load_extra(entries.w));
}

fn extra_word(word: Extras, inv: f32) -> u32 {
  return pack4xI8(vec4<i32>(extra_part(word.a, inv), extra_part(word.b, inv), extra_part(word.c, inv), extra_part(word.d, inv)));
}

// The words of four neighbours of a subgroup, in their order for the first of them.
fn four_extra_words(own: u32) -> vec4<u32> {
  return vec4<u32>(own, subgroupShuffleXor(own, 1u), subgroupShuffleXor(own, 2u), subgroupShuffleXor(own, 3u));
}

// Makes x_q; `slot` counts the invocations subgroup by subgroup. Every invocation calls it.
fn make_input(lid: u32, slot: u32, subgroup_lane: u32, subgroup_lanes: u32) {
  let extra_words = 4u * (X_VECS - BULK_VECS);
  // Loads go ahead of what waits for one of them: those that need no other, then those that need one.
  let quads = load_quads(lid);
  let own = load_channels(min(lid, BULK_VECS - 1u));
  let entries = extra_entries(slot);
  load_ahead(lid);
  let own_extras = load_extras(entries);
  var sum = add_squares(add_squares(add_squares(add_squares(0.0, quads.a), quads.b), quads.c), quads.d);
  if (BULK_VECS > LANES) {
    for (var i = lid + 4u * LANES; i < 4u * BULK_VECS; i += 4u * LANES) {
      let more = load_quads(i);
      sum = add_squares(add_squares(add_squares(add_squares(sum, more.a), more.b), more.c), more.d);
    }
  }
  let mean = sum_over_workgroup(lid, subgroup_lane, subgroup_lanes, sum) / f32(params.in_features);
  let inv = inverseSqrt(mean + params.eps);
  if (lid < BULK_VECS) {
    x_row[lid] = bulk_vec(own, inv);
  }
  if (BULK_VECS > WORKGROUP) {
    for (var vec = lid + WORKGROUP; vec < BULK_VECS; vec += WORKGROUP) {
      x_row[vec] = bulk_vec(load_channels(vec), inv);
    }
  }
  let words = four_extra_words(extra_word(own_extras, inv));
  if (slot < extra_words && slot % 4u == 0u) {
    x_row[BULK_VECS + slot / 4u] = words;
  }
  if (X_VECS - BULK_VECS > WORKGROUP / 4u) {
    for (var first = WORKGROUP; first < extra_words; first += WORKGROUP) {
      let word = first + slot;
      let more = four_extra_words(extra_word(load_extras(extra_entries(word)), inv));
      if (word < extra_words && word % 4u == 0u) {
        x_row[BULK_VECS + word / 4u] = more;
      }
    }
  }
  workgroupBarrier();
}

// What an accumulator is multiplied with, and what is added.
struct Factor {
  scale: f32,
  bias: f32,
}

fn load_factor(out: u32) -> Factor {
  var bias = 0.0;
  if (params.has_bias != 0u) {
    bias = bitcast<f32>(aux[aux_bias() + out]);
  }
  return Factor(params.x_scale * bitcast<f32>(aux[out * params.w_scale_stride]), bias);
}

fn scaled(by: Factor, acc: i32) -> f32 {
  return fma(f32(acc), by.scale, by.bias);
}

// The invocation's pair of outputs a and b; of the sums it has a part, and `take` is given the value of each output. Every invocation calls it.
fn make_outputs(a: u32, b: u32, place: Place, subgroup_lanes: u32, lid: u32) {
  // Weights are on their way before the input is made.
  let steps = load_pair(a, b, place.lane, place.lanes);
  let own = load_factor(select(a, b, place.lane % 2u == 1u));
  make_input(lid, place.pair * place.lanes + place.lane, place.subgroup_lane, subgroup_lanes);
  let is_own = place.pair < WORKGROUP / GROUP;
  let sums = sum_of_group(dot_row(0u, a, b, place, steps, is_own), subgroup_lanes);
  for (var n = place.lane; n < 2u && is_own; n += place.lanes) {
    var by = own;
    if (n != place.lane) {
      by = load_factor(b);
    }
    take(place.pair, n, scaled(by, select(sums.x, sums.y, n == 1u)));
  }
}
