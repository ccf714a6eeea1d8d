// What every kernel ends with that writes flat integers: it makes x[t, j] in the float operations of the kernel that it stands
// for, and takes parts of it, with no float in memory between. The kernel declares
//
//   map     [flat_features] u32: n(j) >= 1 for j < features; from there on source | part << 24 of the extra channels
//   params  with flat_features, q_max and inv_scale
//
// An extra channel may repeat a part, part 0 too. A row of integers has padded(flat_features) / 4 words, four i8 each: part 0 of
// every channel in order, the extra channels, zeros. n(j) * q_max < 2^24, so every value is an exact f32.

const SOURCE_MASK: u32 = 0xffffffu;
const PART_SHIFT: u32 = 24u;
// A part that no channel has: always zero.
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

// The integer of a flat channel whose source has the value x, finite.
fn flat_part(entry: u32, x: f32) -> i32 {
  let limit = f32(map[entry & SOURCE_MASK] * params.q_max);
  let q = i32(round(clamp(x * params.inv_scale, -limit, limit)));
  let q_max = i32(params.q_max);
  return sign(q) * clamp(abs(q) - i32(entry >> PART_SHIFT) * q_max, 0, q_max);
}
