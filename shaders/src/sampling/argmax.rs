//! Greedy choice. Shapes and formula: argmax.wgsl.

use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "argmax",
    source: &[include_str!("argmax.wgsl"), include_str!("order_key.wgsl")],
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

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `argmax`; see the header of argmax.wgsl for shapes.
pub fn reference(params: &Params, logits: &[f32], token: &mut [u32]) {
    let vocab = params.vocab as usize;
    for row in 0..params.rows as usize {
        token[row] = largest(&logits[row * vocab..][..vocab]);
    }
}

/// Index of the largest logit, the lowest of equals; 0 where there are only NaN.
pub(crate) fn largest(logits: &[f32]) -> u32 {
    let mut best: Option<usize> = None;
    for (i, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|best| logit > logits[best]) {
            best = Some(i);
        }
    }
    best.unwrap_or(0) as u32
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
}
