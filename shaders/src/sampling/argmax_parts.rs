//! The largest logit of each part of a row, from which a choice begins. Shapes and formula: argmax_parts.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "argmax_parts",
    source: &[
        include_str!("argmax_parts.wgsl"),
        include_str!("better.wgsl"),
        include_str!("order_key.wgsl"),
    ],
    bindings: &[Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub vocab: u32,
}

/// Logits of a part.
pub const PART: u32 = 256;

/// Parts of a row of logits.
pub const fn parts(vocab: u32) -> u32 {
    div_ceil(vocab, PART)
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [parts(params.vocab), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `argmax_parts`; see the header of argmax_parts.wgsl for shapes.
pub fn reference(params: &Params, logits: &[f32], best: &mut [[u32; 2]]) {
    let rows = logits.chunks_exact(params.vocab as usize);
    let of_rows = best.chunks_exact_mut(parts(params.vocab) as usize);
    for (row, best) in rows.zip(of_rows).take(params.rows as usize) {
        for ((p, part), best) in row.chunks(PART as usize).enumerate().zip(best) {
            let i = largest(part);
            *best = [order_key(part[i]), p as u32 * PART + i as u32];
        }
    }
}

/// Index of the largest logit, the lowest of equals; 0 where there are only NaN.
pub(crate) fn largest(logits: &[f32]) -> usize {
    let mut best: Option<usize> = None;
    for (i, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|best| logit > logits[best]) {
            best = Some(i);
        }
    }
    best.unwrap_or(0)
}

/// An integer that orders as the floats do, with one for both zeros, and 0 for NaN, which is below everything.
fn order_key(logit: f32) -> u32 {
    let sign = 1 << 31;
    match logit {
        _ if logit.is_nan() => 0,
        _ if logit < 0.0 => !logit.to_bits(),
        _ => logit.abs().to_bits() | sign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index_and_nan_never_wins() {
        let nan = f32::NAN;
        assert_eq!(largest(&[1.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(largest(&[-0.0, 0.0]), 0);
        assert_eq!(largest(&[nan, -nan, -5.0, nan]), 2);
        assert_eq!(largest(&[nan, f32::NEG_INFINITY]), 1);
        assert_eq!(largest(&[nan, nan]), 0);
    }

    #[test]
    fn keys_order_as_floats() {
        let ascending = [
            f32::NAN,
            f32::NEG_INFINITY,
            -1.0,
            -1e-45,
            0.0,
            1e-45,
            1.0,
            f32::INFINITY,
        ];
        let keys = ascending.map(order_key);
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert_eq!(order_key(-0.0), order_key(0.0));
    }
}
