// The largest magnitude of a row, and the steps that fit into it. WORKGROUP is left to each kernel.

// Rows below it count as zeros. 2^-100 as bits.
const ABSMAX_MIN: u32 = 0x0d800000u;

var<workgroup> largest: array<u32, WORKGROUP>;

// The maximum over the workgroup. Every invocation calls it; every invocation gets the maximum.
fn workgroup_max(lid: u32, value: u32) -> u32 {
  largest[lid] = value;
  workgroupBarrier();
  for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
    if (lid < half) {
      largest[lid] = max(largest[lid], largest[lid + half]);
    }
    workgroupBarrier();
  }
  return largest[0];
}

// q_max / absmax, truncated to 24 bits. absmax is given as bits of a normal f32; 4 <= q_max < 2^23.
fn truncated_quotient(q_max: u32, absmax: u32) -> f32 {
  let divisor = (absmax & 0x7fffffu) | 0x800000u;
  // The dividend as a 24-bit mantissa q_max * 2^shift in divisor .. 2 * divisor: the first bit of the quotient is 1.
  var shift = countLeadingZeros(q_max) - 8u;
  var remainder = q_max << shift;
  if (remainder < divisor) {
    shift += 1u;
    remainder <<= 1u;
  }
  var quotient = 0u;
  for (var bit = 0u; bit < 24u; bit += 1u) {
    quotient <<= 1u;
    if (remainder >= divisor) {
      remainder -= divisor;
      quotient |= 1u;
    }
    remainder <<= 1u;
  }
  // absmax = divisor * 2^(exponent - 150), quotient = 2^23 * mantissa; the bias of f32 is 127.
  let exponent = 277u - (absmax >> 23u) - shift;
  return bitcast<f32>((exponent << 23u) | (quotient & 0x7fffffu));
}
