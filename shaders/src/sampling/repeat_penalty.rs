//! Less of what was said. Shapes and formula: repeat_penalty.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};
use std::collections::BTreeSet;

pub const KERNEL: Kernel = Kernel {
    name: "repeat_penalty",
    source: &[include_str!("repeat_penalty.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

/// A place of the history that has no token yet.
pub const NO_TOKEN: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub vocab: u32,
    /// Places of a sequence's history.
    pub window: u32,
    pub penalty: f32,
    /// 1 / penalty, divided on the host: a shader's division is not the same everywhere.
    pub inv_penalty: f32,
}

impl Params {
    pub fn new(rows: u32, vocab: u32, window: u32, penalty: f32) -> Self {
        Self {
            rows,
            vocab,
            window,
            penalty,
            inv_penalty: 1.0 / penalty,
        }
    }
}

const WORKGROUP: u32 = 64;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.window, WORKGROUP), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `repeat_penalty`; see the header of repeat_penalty.wgsl for shapes.
pub fn reference(params: &Params, row_info: &[[u32; 2]], history: &[u32], logits: &mut [f32]) {
    let (vocab, window) = (params.vocab as usize, params.window as usize);
    for row in 0..params.rows as usize {
        let history = &history[row_info[row][0] as usize * window..][..window];
        let distinct: BTreeSet<u32> = history
            .iter()
            .copied()
            .filter(|&token| token < params.vocab)
            .collect();
        for token in distinct {
            let logit = &mut logits[row * vocab + token as usize];
            *logit *= if *logit > 0.0 {
                params.inv_penalty
            } else {
                params.penalty
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_penalized_once_and_towards_less() {
        let history = [9, 9, 9, 9, 2, 0, 2, NO_TOKEN];
        let mut logits = [4.0, 3.0, -1.0, 0.0];
        reference(
            &Params::new(1, 4, 4, 2.0),
            &[[1, 77]],
            &history,
            &mut logits,
        );
        assert_eq!(logits, [2.0, 3.0, -2.0, 0.0]);
    }
}
