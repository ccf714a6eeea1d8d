//! Weights that make up for what their inputs lost: before they are rounded, the least-squares fit that maps the quantized
//! inputs to what the float model's linear gives.
//!
//! With X the float inputs, Z the flat quantized ones and W' the weights on the flat channels, `V = W' + (ZᵀZ + λ)⁻¹ Zᵀ E`,
//! where `E = X Wᵀ - Z W'ᵀ` is what the outputs would miss. Rounding of the inputs, what saturates and the error of earlier
//! layers are all in E. GPTQ then rounds V.

use super::gptq::Factor;
use rayon::prelude::*;

/// Rows of the samples that the fit is made on, at most.
pub const ROWS: usize = 1 << 14;
/// Rows whose contributions are summed in f32, before they are added up in f64.
const BLOCK_ROWS: usize = 64;

/// The float side of a linear.
pub struct Exact<'a> {
    /// Inputs [rows, in_features].
    pub x: &'a [f32],
    pub in_features: usize,
    /// Weights [outputs, in_features].
    pub w: &'a [f32],
}

/// Refits `flat` [outputs, features] in place. `z` [rows, features] are the integers of the flat inputs, each worth `scale`;
/// `factor` is that of `ZᵀZ` over `total_rows` rows of such integers.
pub fn refit(
    flat: &mut [f32],
    exact: &Exact<'_>,
    z: &[i8],
    scale: f32,
    factor: &Factor,
    total_rows: usize,
) {
    let features = factor.features();
    let outputs = flat.len() / features;
    let rows = z.len() / features;
    let w = transposed(exact.w, exact.in_features);
    let w_flat = transposed(flat, features);
    // E [rows, outputs], each row in one order.
    let mut missing = vec![0.0_f32; rows * outputs];
    missing
        .par_chunks_mut(outputs)
        .zip(exact.x.par_chunks_exact(exact.in_features))
        .zip(z.par_chunks_exact(features))
        .for_each(|((missing, x), z)| {
            for (x, w) in x.iter().zip(w.chunks_exact(outputs)) {
                add(missing, *x, w);
            }
            for (z, w) in z.iter().zip(w_flat.chunks_exact(outputs)) {
                if *z != 0 {
                    add(missing, -scale * f32::from(*z), w);
                }
            }
        });
    // Zᵀ E [features, outputs], blocks of rows in ascending order.
    let mut change = vec![0.0_f64; features * outputs];
    change
        .par_chunks_mut(outputs)
        .enumerate()
        .for_each(|(feature, change)| {
            let mut block = vec![0.0_f32; outputs];
            let blocks = z.chunks(BLOCK_ROWS * features);
            for (z, missing) in blocks.zip(missing.chunks(BLOCK_ROWS * outputs)) {
                block.fill(0.0);
                let rows = z.chunks_exact(features);
                for (z, missing) in rows.zip(missing.chunks_exact(outputs)) {
                    if z[feature] != 0 {
                        add(&mut block, f32::from(z[feature]), missing);
                    }
                }
                for (change, block) in change.iter_mut().zip(&block) {
                    *change += f64::from(*block);
                }
            }
        });
    factor.solve(&mut change, outputs);
    let per_unit = total_rows as f64 / (rows.max(1) as f64 * f64::from(scale));
    flat.par_chunks_exact_mut(features)
        .enumerate()
        .for_each(|(output, flat)| {
            for (feature, value) in flat.iter_mut().enumerate() {
                *value += (change[feature * outputs + output] * per_unit) as f32;
            }
        });
}

/// `sum += factor * values`
fn add(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
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
