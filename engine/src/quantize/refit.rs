//! Weights that make up for what their inputs lost: before they are rounded, the least-squares fit that maps the quantized
//! inputs to what the float model's linear gives.
//!
//! With X the float model's inputs, Z the flat quantized ones and W' the weights on the flat channels, V minimizes
//!
//!   |Z Vᵀ - X Wᵀ - D|² + λ |V - W'|²,   so   V = (ZᵀZ + λ)⁻¹ (ZᵀX Wᵀ + ZᵀD + λ W'ᵀ)ᵀ
//!
//! and GPTQ then rounds V. Rounding of the inputs, what saturates and the errors of earlier layers are all in Z. D is a share of
//! what the hidden states miss so far, for linears that add to them: they can give some of it back.

use super::gptq::{Factor, GptqConfig, Order};
use rayon::prelude::*;

/// What holds V near W': GPTQ needs far less, to have a factor at all.
pub const FACTOR: GptqConfig = GptqConfig {
    damping: 0.3,
    order: Order::Natural,
};
/// Of what the hidden states miss, the share that a linear is asked to give back.
const DEBT_SHARE: f64 = 0.5;
/// Features whose sums are made together, so that a row of weights is read once for them.
const BLOCK: usize = 8;

/// The float side of a linear. z [rows, features] are the integers of the flat inputs.
pub struct Exact<'a> {
    /// `zᵀX`, [features, in_features].
    pub inputs: &'a [f32],
    pub in_features: usize,
    /// Weights [outputs, in_features].
    pub w: &'a [f32],
    /// zᵀ times what the hidden states miss, [features, outputs], for a linear that adds to them.
    pub debt: Option<&'a [f32]>,
}

/// Refits `flat` [outputs, features], W' above, in place. Each of the integers z is worth `scale`, and `factor` is that of `zᵀz`:
/// its damping is λ, in units of z.
pub fn refit(flat: &mut [f32], exact: &Exact<'_>, scale: f32, factor: &Factor) {
    let features = factor.features();
    let outputs = flat.len() / features;
    let scale = f64::from(scale);
    let w = transposed(exact.w, exact.in_features);
    // [features, outputs]
    let mut solution = vec![0.0_f64; features * outputs];
    solution
        .par_chunks_mut(BLOCK * outputs)
        .zip(exact.inputs.par_chunks(BLOCK * exact.in_features))
        .for_each(|(sums, inputs)| {
            for (input, w) in w.chunks_exact(outputs).enumerate() {
                let inputs = inputs.iter().skip(input).step_by(exact.in_features);
                for (sums, x) in sums.chunks_exact_mut(outputs).zip(inputs) {
                    add(sums, f64::from(*x), w);
                }
            }
        });
    let w_flat = transposed(flat, features);
    let damping = factor.damping();
    solution
        .par_chunks_exact_mut(outputs)
        .zip(w_flat.par_chunks_exact(outputs))
        .enumerate()
        .for_each(|(feature, (sums, w))| {
            if let Some(debt) = exact.debt {
                add(sums, DEBT_SHARE, &debt[feature * outputs..][..outputs]);
            }
            add(sums, scale * damping[feature], w);
        });
    factor.solve(&mut solution, outputs);
    flat.par_chunks_exact_mut(features)
        .enumerate()
        .for_each(|(output, flat)| {
            for (feature, value) in flat.iter_mut().enumerate() {
                *value = (solution[feature * outputs + output] / scale) as f32;
            }
        });
}

/// `sums += factor * values`
fn add(sums: &mut [f64], factor: f64, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * f64::from(*value);
    }
}

/// [rows, columns] to [columns, rows].
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns;
    let mut result = vec![0.0; matrix.len()];
    result
        .par_chunks_mut(rows)
        .enumerate()
        .for_each(|(column, out)| {
            for (row, out) in out.iter_mut().enumerate() {
                *out = matrix[row * columns + column];
            }
        });
    result
}
