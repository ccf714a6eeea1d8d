// Numbers in words: bytes, nibbles, halves.

// Byte `i` of packed i8.
FUNCTION int int8_at(const u32* words, u64 i) {
  return (signed char)(words[i / 4] >> (8 * (i % 4)));
}

// Element `i` of packed i4: of eight, the first four are the low nibbles of the bytes, the others the high ones; 8 is zero.
FUNCTION int int4_at(const u32* words, u64 i) {
  const u32 in_word = i % 8;
  const u32 byte = in_word % 4;
  const u32 is_high = in_word / 4;
  return (int)((words[i / 8] >> (8 * byte + 4 * is_high)) & 15u) - 8;
}

// Four i8, the first in the low byte.
FUNCTION u32 packed(const int values[4]) {
  u32 word = 0;
  for (u32 i = 0; i < 4; i += 1) {
    word |= (u32)(u8)values[i] << (8 * i);
  }
  return word;
}

FUNCTION double half_value(u16 bits) {
  const int sign = bits >> 15 ? -1 : 1;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) {
    return mantissa ? (double)NAN : sign * (double)INFINITY;
  }
  // A subnormal half has the exponent of the smallest normal one, and no hidden bit.
  return sign * (exponent == 0 ? ldexp((double)mantissa, -24) : ldexp((double)(1024 + mantissa), exponent - 25));
}

FUNCTION double half_at(const u32* words, u64 i) {
  return half_value((u16)(words[i / 2] >> (16 * (i % 2))));
}

// The half that is nearest, of two the even one.
FUNCTION u16 half_bits(float value) {
  const u32 bits = float_bits(value);
  const u16 sign = (u16)(bits >> 16 & 0x8000u);
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    // Quiet, with what fits of the payload.
    return sign | 0x7e00 | (u16)(magnitude >> 13 & 0x3ffu);
  }
  const double x = fabs((double)value);
  // Half way from the largest half, 65504, to what would follow.
  if (x >= 65520.0) {
    return sign | 0x7c00;
  }
  // Of the step between halves near x, which for the smallest normal ones and below is 2^-24.
  int exponent = (int)(magnitude >> 23) - 127;
  if (exponent < -14) {
    exponent = -14;
  }
  const u32 steps = (u32)rint(ldexp(x, 10 - exponent));
  // 1024 steps carry into the exponent by themselves.
  return sign | (u16)(((u32)(exponent + 14) << 10) + steps);
}
