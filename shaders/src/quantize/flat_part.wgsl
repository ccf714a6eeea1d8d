// What every kernel ends with that writes flat integers: it makes x[t, j] in the float operations of the kernel that it stands
// for, and takes parts of it, with no float in memory between. The kernel declares
//
//   map     [flat_features] u32: n(j) >= 1 for j < features; from there on source | part << 24 of the extra channels, part < n(source),
//           or NO_PART
//   params  with flat_features, q_max and inv_scale
//
// An extra channel may repeat a part, part 0 too. A row of integers has padded(flat_features) / 4 words, four i8 each: part 0 of
// every channel in order, the extra channels, zeros. n(j) * q_max < 2^24, so every value is an exact f32.

const SOURCE_MASK: u32 = 0xffffffu;
const PART_SHIFT: u32 = 24u;
// A part that no channel has: always zero.
const NO_PART: u32 = 0xffu;
const ZERO_ENTRY: u32 = 0xff000000u;

// Words of a row of integers.
fn flat_words() -> u32 {
  return (params.flat_features + 31u) / 32u * 8u;
}

// source | part << 24 of a flat channel, of a row of so many features.
fn flat_entry(channel: u32, features: u32) -> u32 {
  if (channel >= params.flat_features) {
    return ZERO_ENTRY;
  }
  if (channel >= features) {
    return map[channel];
  }
  return channel;
}

// The four of a word.
fn flat_entries(word: u32, features: u32) -> vec4<u32> {
  let channel = 4u * word;
  return vec4<u32>(
    flat_entry(channel, features),
    flat_entry(channel + 1u, features),
    flat_entry(channel + 2u, features),
    flat_entry(channel + 3u, features),
  );
}

// The integer of a flat channel whose source has the value x, finite. What x has beyond the part changes nothing, so how many parts
// there are need not be read.
fn flat_part(entry: u32, x: f32) -> i32 {
  let part = entry >> PART_SHIFT;
  if (part == NO_PART) {
    return 0;
  }
  let before = part * params.q_max;
  let limit = f32(before + params.q_max);
  let q = i32(round(clamp(x * params.inv_scale, -limit, limit)));
  return sign(q) * max(abs(q) - i32(before), 0);
}
