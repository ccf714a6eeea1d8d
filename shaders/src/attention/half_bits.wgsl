// Floats to halves: to the nearest, ties to even.

// Bit patterns of f32, without the sign.
const F32_INFINITY: u32 = 0x7f800000u;
const F32_FIRST_TO_OVERFLOW: u32 = 0x477ff000u;      // 65520, half way from the largest half to the next
const F32_SMALLEST_NORMAL_HALF: u32 = 0x38800000u;   // 2^-14
const F32_LAST_TO_VANISH: u32 = 0x33000000u;         // 2^-25, half of the smallest half
const F32_EXPONENT_STEP: u32 = 0x38000000u;          // (127 - 15) << 23, between the exponents' biases
const F32_MANTISSA: u32 = 0x007fffffu;
const F32_HIDDEN_BIT: u32 = 0x00800000u;
const F16_SIGN: u32 = 0x8000u;
const F16_INFINITY: u32 = 0x7c00u;
const F16_QUIET_NAN: u32 = 0x7e00u;
const F16_MANTISSA: u32 = 0x03ffu;
// Bits of a mantissa that a half has not.
const DROPPED_BITS: u32 = 13u;
// A mantissa with its hidden bit, shifted right by this less the exponent field, counts smallest halves, 2^-24.
const SUBNORMAL_EXPONENT: u32 = 126u;

// value / 2^shift to the nearest integer, ties to even. 1 <= shift <= 24.
fn shift_right_rounded(value: u32, shift: u32) -> u32 {
  let quotient = value >> shift;
  let rest = value & ((1u << shift) - 1u);
  let tie = 1u << (shift - 1u);
  return quotient + select(0u, 1u, rest > tie || (rest == tie && (quotient & 1u) == 1u));
}

// The bits of a half from those of a float. In integers: pack2x16float may round either way.
fn half_bits(bits: u32) -> u32 {
  let sign = (bits >> 16u) & F16_SIGN;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > F32_INFINITY) {
    return sign | F16_QUIET_NAN | ((magnitude >> DROPPED_BITS) & F16_MANTISSA);
  }
  if (magnitude >= F32_FIRST_TO_OVERFLOW) {
    return sign | F16_INFINITY;
  }
  if (magnitude <= F32_LAST_TO_VANISH) {
    return sign;
  }
  if (magnitude < F32_SMALLEST_NORMAL_HALF) {
    let mantissa = (magnitude & F32_MANTISSA) | F32_HIDDEN_BIT;
    return sign | shift_right_rounded(mantissa, SUBNORMAL_EXPONENT - (magnitude >> 23u));
  }
  return sign | shift_right_rounded(magnitude - F32_EXPONENT_STEP, DROPPED_BITS);
}
