//! Weights that make up for what their inputs lost: before they are rounded, the least-squares fit that maps the quantized
//! inputs to what the float model's linear gives.
//!
//! With X the float model's inputs, Z the flat quantized ones and W' the weights on the flat channels, V minimizes
//!
//!   |Z Vᵀ - X Wᵀ - D|² + λ |V - W'|²,   so   V = (ZᵀZ + λ)⁻¹ (ZᵀX Wᵀ + ZᵀD + λ W'ᵀ)ᵀ
//!
//! and GPTQ then rounds V. Rounding of the inputs, what saturates and the errors of earlier layers are all in Z. D is a share of
//! what the hidden states miss so far, for linears that add to them: they can give some of it back.

use super::gptq::{Factor, GptqConfig, Order, SOLVED};
use super::linalg::multiply_add;
use rayon::prelude::*;
use std::ops::Range;

/// What holds V near W': GPTQ needs far less, to have a factor at all.
pub const FACTOR: GptqConfig = GptqConfig {
    damping: 0.3,
    order: Order::Natural,
};
/// Of what the hidden states miss, the share that a linear is asked to give back.
const DEBT_SHARE: f64 = 0.5;

/// Outputs whose right-hand sides are in memory together.
pub const OUTPUTS: usize = 16 * SOLVED;

/// The right-hand side of a fit of some of a linear's outputs, `ZᵀX Wᵀ + ZᵀD`, in units of the integers z that Z is made of. It is
/// summed from bands of features, so that neither `zᵀX` nor `zᵀD` is ever in memory as a whole.
pub struct RightHand {
    features: usize,
    /// Of the linear's.
    outputs: Range<usize>,
    /// [outputs / SOLVED, features, SOLVED]
    sums: Vec<f64>,
}

impl RightHand {
    /// Zeros, for some `outputs` of a linear with flat `features`.
    pub fn new(features: usize, outputs: Range<usize>) -> Self {
        let sums = vec![0.0; features * outputs.len().next_multiple_of(SOLVED)];
        Self {
            features,
            outputs,
            sums,
        }
    }

    /// Adds the features from `first` on: `inputs` is rows of `zᵀX` [features, in_features] with the float model's inputs, `w` its
    /// weights of these outputs, [outputs, in_features].
    pub fn add_inputs(&mut self, first: usize, inputs: &[f32], w: &[f32]) {
        let (outputs, features) = (self.outputs.len(), self.features);
        let in_features = w.len() / outputs;
        let chunks = self.sums.par_chunks_exact_mut(features * SOLVED);
        chunks.enumerate().for_each(|(chunk, sums)| {
            let mut columns = vec![0.0; in_features * SOLVED];
            let rows = chunk * SOLVED..((chunk + 1) * SOLVED).min(outputs);
            for (lane, row) in rows.enumerate() {
                let row = &w[row * in_features..][..in_features];
                for (column, value) in columns.chunks_exact_mut(SOLVED).zip(row) {
                    column[lane] = f64::from(*value);
                }
            }
            let sums = sums[first * SOLVED..].chunks_mut(SOLVED * SOLVED);
            for (sums, inputs) in sums.zip(inputs.chunks(SOLVED * in_features)) {
                multiply_add(
                    |row, at| f64::from(inputs[row * in_features + at]),
                    &columns,
                    &mut sums[..inputs.len() / in_features * SOLVED],
                );
            }
        });
    }

    /// Adds the features from `first` on of what the linear is asked to give back: `debt` is rows of z [features, tokens] times
    /// what the hidden states miss, [features, width], all outputs of the linear.
    pub fn add_debt(&mut self, first: usize, debt: &[f32], width: usize) {
        let (outputs, features) = (self.outputs.clone(), self.features);
        let chunks = self.sums.par_chunks_exact_mut(features * SOLVED);
        chunks.enumerate().for_each(|(chunk, sums)| {
            let sums = sums[first * SOLVED..].chunks_exact_mut(SOLVED);
            for (sums, debt) in sums.zip(debt.chunks_exact(width)) {
                let debt = &debt[outputs.clone()];
                for (sum, debt) in sums.iter_mut().zip(&debt[chunk * SOLVED..]) {
                    *sum += DEBT_SHARE * f64::from(*debt);
                }
            }
        });
    }

    /// Refits `flat` [outputs, features], W' of these outputs, in place. Each of the integers z is worth `scale`, and `factor` is that of
    /// `zᵀz`: its damping is λ, in units of z.
    pub fn refit(mut self, flat: &mut [f32], scale: f32, factor: &Factor) {
        let features = self.features;
        let scale = f64::from(scale);
        let damping = factor.damping();
        flat.par_chunks_mut(features * SOLVED)
            .zip(self.sums.par_chunks_exact_mut(features * SOLVED))
            .for_each(|(flat, sums)| {
                for (lane, row) in flat.chunks_exact(features).enumerate() {
                    let sums = sums.iter_mut().skip(lane).step_by(SOLVED);
                    for ((sum, damping), value) in sums.zip(&damping).zip(row) {
                        *sum += scale * damping * f64::from(*value);
                    }
                }
                factor.solve(sums);
                for (lane, row) in flat.chunks_exact_mut(features).enumerate() {
                    for (value, sum) in row.iter_mut().zip(sums.iter().skip(lane).step_by(SOLVED)) {
                        *value = (sum / scale) as f32;
                    }
                }
            });
    }
}
