// INT4 weights to INT8 while they are loaded. A word holds features f..f + 8 as offset binary nibbles n = w + 8: byte b has
// feature f + b in its low nibble and f + 4 + b in its high one, so each half is a word of four i8 in order.

// 0: the bytes are 16 * w, and `finish` takes the 16 out of the sum. 32, 64 or 128: the bytes are w * m, m in 1..=16 the
// multiplier of the group, and the sum is that of the products.
override GROUP_SIZE: u32 = 0u;

// Features of a K step; a group is a whole number of steps.
const K_STEP: u32 = 32u;

// The multiplier of the group that has K step `step` of output `out`.
fn multiplier(out: u32, step: u32) -> u32 {
  if (GROUP_SIZE == 0u) {
    return 1u;
  }
  let group_steps = max(GROUP_SIZE / K_STEP, 1u);
  let groups = (in_words() * 4u / K_STEP + group_steps - 1u) / group_steps;
  let row_words = (groups + 7u) / 8u;
  let first = aux_bias() + select(0u, params.out_features, params.has_bias != 0u);
  let group = step / group_steps;
  return ((aux[first + out * row_words + group / 8u] >> (group % 8u * 4u)) & 0xfu) + 1u;
}

// Features f..f + 4 (x) and f + 4..f + 8 (y) of a word.
fn unpack(word: u32, m: u32) -> vec2<u32> {
  if (GROUP_SIZE == 0u) {
    let signed = word ^ 0x88888888u;
    return vec2<u32>((signed << 4u) & 0xf0f0f0f0u, signed & 0xf0f0f0f0u);
  }
  // (n - 8) * m + 128 lies in 16..=240: four bytes at once, no carry between them.
  let n = vec2<u32>(word & 0x0f0f0f0fu, (word >> 4u) & 0x0f0f0f0fu);
  return (n * m + (128u - 8u * m) * 0x01010101u) ^ vec2<u32>(0x80808080u);
}

fn finish(acc: i32) -> i32 {
  return select(acc, acc >> 4u, GROUP_SIZE == 0u);
}
