// The input of a fused linear of one row: each workgroup makes x_q = flatten_quantize(rms_norm(x)) in its memory.
//
//   x       [in_features]       f32
//   weight  [in_features]       f32, of the norm
//   w, aux                      gemv_i4.wgsl, gemv_i8.wgsl, with a scale for each output
//   in_map  [in_flat_features]  u32, the map of ../quantize/flat_part.wgsl
//
// in_features is a multiple of 16. The sums and the roundings are those of rms_norm_flat.wgsl: part 0 of a channel is what clamping to
// q_max leaves of it, whatever parts follow. Kernels declare `params`, and include what sums over a workgroup.

// vec4s of sixteen channels without the extra ones, and words of the extra ones with the zeros after them.
override BULK_VECS: u32 = 64u;
override EXTRA_WORDS: u32 = 64u;

const WORKGROUP: u32 = 256u;
const IN_SOURCE_MASK: u32 = 0xffffffu;
const IN_PART_SHIFT: u32 = 24u;

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> aux: array<u32>;
@group(0) @binding(5) var<storage, read> in_map: array<u32>;

var<workgroup> bulk: array<vec4<u32>, BULK_VECS>;
var<workgroup> extras: array<u32, EXTRA_WORDS>;

// Word of `aux` after the weight scales.
fn aux_bias() -> u32 {
  return select(1u, params.out_features, params.w_scale_stride != 0u);
}

// Sixteen products of i8.
fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

fn x_vec(row: u32, vec: u32) -> vec4<u32> {
  let vecs = params.in_features / 16u;
  if (vec < vecs) {
    return bulk[vec];
  }
  let at = 4u * (vec - vecs);
  return vec4<u32>(extras[at], extras[at + 1u], extras[at + 2u], extras[at + 3u]);
}

// Part 0 of four channels.
fn bulk_word(value: vec4<f32>, inv: f32, norm: vec4<f32>) -> u32 {
  let limit = vec4<f32>(f32(params.in_q_max));
  return pack4xI8(vec4<i32>(round(clamp(value * inv * norm * params.in_inv_scale, -limit, limit))));
}

// What an extra channel is made of.
struct Extra {
  // 0 for a channel that is always zero.
  limit: f32,
  part: i32,
  value: f32,
  norm: f32,
}

fn load_extra(channel: u32) -> Extra {
  if (channel >= params.in_flat_features) {
    return Extra();
  }
  let entry = in_map[channel];
  let source = entry & IN_SOURCE_MASK;
  let limit = f32(in_map[source] * params.in_q_max);
  return Extra(limit, i32(entry >> IN_PART_SHIFT), x[source / 4u][source % 4u], weight[source / 4u][source % 4u]);
}

fn extra_part(extra: Extra, inv: f32) -> i32 {
  let q = i32(round(clamp(extra.value * inv * extra.norm * params.in_inv_scale, -extra.limit, extra.limit)));
  let q_max = i32(params.in_q_max);
  return sign(q) * clamp(abs(q) - extra.part * q_max, 0, q_max);
}

// Feature i, or 0 past the end.
fn feature(i: u32) -> f32 {
  let value = x[min(i, params.in_features - 1u) / 4u][i % 4u];
  return select(0.0, value, i < params.in_features);
}

// Features i, i + LANES, .. of a lane.
fn four_features(i: u32) -> vec4<f32> {
  return vec4<f32>(feature(i), feature(i + LANES), feature(i + 2u * LANES), feature(i + 3u * LANES));
}

// The chain of squares; those of zeros past the end change nothing.
fn add_squares(sum: f32, values: vec4<f32>) -> f32 {
  return fma(values.w, values.w, fma(values.z, values.z, fma(values.y, values.y, fma(values.x, values.x, sum))));
}

// 1 / sqrt(mean(x^2) + eps). Every invocation calls it; every invocation gets the value.
fn inverse_rms_of_row(lane: u32) -> f32 {
  var sum = 0.0;
  for (var i = lane; i < params.in_features; i += 16u * LANES) {
    // All loads before the sums, written out: a driver may leave loops over arrays as they are.
    let a = four_features(i);
    let b = four_features(i + 4u * LANES);
    let c = four_features(i + 8u * LANES);
    let d = four_features(i + 12u * LANES);
    sum = add_squares(add_squares(add_squares(add_squares(sum, a), b), c), d);
  }
  let mean = workgroup_sum(lane, sum) / f32(params.in_features);
  return inverseSqrt(mean + params.eps);
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

fn load_extras(word: u32) -> Extras {
  let channel = params.in_features + 4u * word;
  return Extras(load_extra(channel), load_extra(channel + 1u), load_extra(channel + 2u), load_extra(channel + 3u));
}

fn extra_word(word: Extras, inv: f32) -> u32 {
  return pack4xI8(vec4<i32>(extra_part(word.a, inv), extra_part(word.b, inv), extra_part(word.c, inv), extra_part(word.d, inv)));
}

// Makes x_q. Every invocation calls it.
fn make_input(lane: u32) {
  let vecs = params.in_features / 16u;
  let extra_words = params.in_words - 4u * vecs;
  // Of the first vec4 and the first extra word of each lane all is loaded before the sum.
  let own = load_channels(min(lane, vecs - 1u));
  var own_extras = Extras();
  if (lane < extra_words) {
    own_extras = load_extras(lane);
  }
  let inv = inverse_rms_of_row(lane);
  if (lane < vecs) {
    bulk[lane] = bulk_vec(own, inv);
  }
  if (lane < extra_words) {
    extras[lane] = extra_word(own_extras, inv);
  }
  for (var vec = lane + LANES; vec < vecs; vec += LANES) {
    bulk[vec] = bulk_vec(load_channels(vec), inv);
  }
  for (var word = lane + LANES; word < extra_words; word += LANES) {
    extras[word] = extra_word(load_extras(word), inv);
  }
  workgroupBarrier();
}

// acc * scales + bias.
fn scaled(out: u32, acc: i32) -> f32 {
  let scale = params.x_scale * bitcast<f32>(aux[out * params.w_scale_stride]);
  var bias = 0.0;
  if (params.has_bias != 0u) {
    bias = bitcast<f32>(aux[aux_bias() + out]);
  }
  return fma(f32(acc), scale, bias);
}

// Eight outputs of a subgroup from `first`, then those from first + stride, count times: `take` is given the first and the sums.
// Every invocation calls it.
fn make_outputs(first: u32, stride: u32, count: u32, place: Place, lane: u32) {
  let batches = num_batches(place.lanes);
  // Weights are on their way before the input is made, and before those at hand are multiplied.
  var steps = load_steps(first, place.lane);
  make_input(lane);
  for (var index = 0u; index < count; index += 1u) {
    let at = first + index * stride;
    var sums = Sums();
    for (var batch = 0u; batch < batches; batch += 1u) {
      let now = steps;
      if (batch + 1u < batches) {
        steps = load_steps(at, place.lane + (batch + 1u) * place.lanes);
      } else if (index + 1u < count) {
        steps = load_steps(at + stride, place.lane);
      }
      sums = add_steps(sums, 0u, place.lane + batch * place.lanes, now);
    }
    let all = total(sums);
    for (var n = place.lane; n < EIGHT; n += place.lanes) {
      take(at, n, sum_of(all, n));
    }
  }
}
