//! Integers with a scale per token. Shapes and formula: quantize_dynamic.wgsl.

use crate::kernel::{Access, Call, Kernel};
use crate::pack;
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "quantize_dynamic",
    source: &[
        include_str!("absmax.wgsl"),
        include_str!("quantize_dynamic.wgsl"),
    ],
    bindings: &[Access::Read, Access::ReadWrite, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub features: u32,
    /// 7 or 127.
    pub q_max: u32,
    /// 1 / q_max, divided on the host: a shader's division is not the same everywhere.
    pub inv_q_max: f32,
}

impl Params {
    pub fn new(rows: u32, features: u32, q_max: u32) -> Self {
        Self {
            rows,
            features,
            q_max,
            inv_q_max: 1.0 / q_max as f32,
        }
    }
}

/// Smaller rows count as zeros: below it scales would come near f32's subnormals, which some adapters flush.
const ABSMAX_MIN: f32 = 1.0 / (1u128 << 100) as f32;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2), call.write(3));
}

/// The definition of `quantize_dynamic`; see the header of quantize_dynamic.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], x_q: &mut [u32], x_scale: &mut [f32]) {
    let features = params.features as usize;
    let words = pack::i8_row_words(features);
    for row in 0..params.rows as usize {
        let (scale, q) = quantize_row(params, &x[row * features..][..features]);
        x_scale[row] = scale;
        x_q[row * words..][..words].copy_from_slice(&pack::pack_i8(&q));
    }
}

/// The scale of a row, and its integers.
pub(crate) fn quantize_row(params: &Params, x: &[f32]) -> (f32, Vec<i8>) {
    let absmax = pack::absmax(x);
    let (scale, inv_scale) = match absmax < ABSMAX_MIN {
        true => (0.0, 0.0),
        false => (
            absmax * params.inv_q_max,
            truncated_quotient(params.q_max, absmax),
        ),
    };
    let limit = params.q_max as f32;
    let step = |v: &f32| (v * inv_scale).round_ties_even().clamp(-limit, limit) as i8;
    (scale, x.iter().map(step).collect())
}

/// `q_max / absmax` truncated to the 24 significant bits of f32.
///
/// The rounded f64 quotient truncates as the true one does: the true quotient of two mantissas of at most 24 bits that is
/// not itself a number of 24 bits is at least 2^-48 of its value away from one, and the rounding moves it by 2^-53.
fn truncated_quotient(q_max: u32, absmax: f32) -> f32 {
    const BITS_DROPPED: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;
    let quotient = f64::from(q_max) / f64::from(absmax);
    f64::from_bits(quotient.to_bits() >> BITS_DROPPED << BITS_DROPPED) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(q_max: u32, x: &[f32]) -> (Vec<i8>, f32) {
        let mut x_q = vec![u32::MAX; pack::i8_row_words(x.len())];
        let mut scale = [f32::NAN];
        reference(
            &Params::new(1, x.len() as u32, q_max),
            x,
            &mut x_q,
            &mut scale,
        );
        let mut q = vec![0; x.len()];
        pack::unpack_i8(&x_q, &mut q);
        (q, scale[0])
    }

    #[test]
    fn rounds_to_nearest_with_ties_to_even() {
        assert_eq!(
            quantize(127, &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.6]),
            (vec![127, 0, 2, 2, 0, -2, -127], 127.0 * (1.0 / 127.0))
        );
        assert_eq!(
            quantize(7, &[-3.5, 1.0, 0.25]),
            (vec![-7, 2, 0], 3.5 * (1.0 / 7.0))
        );
    }

    #[test]
    fn rows_near_zero_become_zero() {
        assert_eq!(quantize(127, &[0.0, -0.0]), (vec![0, 0], 0.0));
        assert_eq!(quantize(127, &[7e-31, 1e-45]), (vec![0, 0], 0.0));
        assert_eq!(quantize(127, &[8e-31, -8e-31]).0, [127, -127]);
    }

    #[test]
    fn quotient_truncates_as_integers_do() {
        // Mantissas by 64-bit division: floor(q_max * 2^s / m) in 2^23..2^24.
        for seed in 0..20_000u32 {
            let mantissa = (seed.wrapping_mul(2_654_435_761) >> 9) | 1 << 23;
            for q_max in [7u64, 127] {
                let mut shift = 0;
                while (q_max << shift) / u64::from(mantissa) < 1 << 23 {
                    shift += 1;
                }
                let expected = ((q_max << shift) / u64::from(mantissa)) as f64 / 2f64.powi(shift);
                assert_eq!(
                    f64::from(truncated_quotient(q_max as u32, mantissa as f32)),
                    expected,
                    "{q_max} / {mantissa}"
                );
            }
        }
    }
}
