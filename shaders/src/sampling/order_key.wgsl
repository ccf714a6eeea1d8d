// Order of the bits of f32 as integers: key(a) < key(b) where a < b. Both zeros have one key, every NaN has key 0, below all.

const KEY_MINUS_INFINITY: u32 = 0x007fffffu;
const SIGN: u32 = 0x80000000u;

fn order_key(bits: u32) -> u32 {
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return 0u;
  }
  if (bits > SIGN) {
    return ~bits;
  }
  return magnitude | SIGN;
}
