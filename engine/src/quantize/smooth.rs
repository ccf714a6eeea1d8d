//! Smoothing: a part of the activations' outliers moves into the weights, at no cost at run time.
//!
//! [SmoothQuant](https://arxiv.org/abs/2211.10438), eq. 3 and 4: `Y = (X / s) (s W)` for any positive s per input channel, and
//! `s_j = absmax(X_j)^a / absmax(W_j)^(1 - a)`. The division is folded into whatever makes X (the rows of its weight, and its
//! bias), the product into the columns of every weight that reads X.

/// Bounds of a scale: beyond them a folded weight would leave the range of halves long before it helped.
const SCALE_RANGE: [f64; 2] = [1e-5, 1e5];

/// s of each input channel, from the largest magnitudes of X and of all weights that read it. 1 where either is 0.
/// `migration_strength` is a of the formula: 0 leaves X as it is large, 1 makes every channel of X equal.
pub fn smoothing_scales(x_absmax: &[f32], w_absmax: &[f32], migration_strength: f32) -> Vec<f32> {
    assert_eq!(x_absmax.len(), w_absmax.len(), "a maximum for each channel");
    let a = f64::from(migration_strength);
    let scale = |(&x, &w): (&f32, &f32)| {
        if x == 0.0 || w == 0.0 {
            return 1.0;
        }
        let scale = libm::pow(x.into(), a) / libm::pow(w.into(), 1.0 - a);
        scale.clamp(SCALE_RANGE[0], SCALE_RANGE[1]) as f32
    };
    x_absmax.iter().zip(w_absmax).map(scale).collect()
}

/// s of each input channel that makes the noise of a flattened tensor least: `absmax(X_j)^(1/3) / norm(W_j)^(2/3)`, over its
/// geometric mean. Noise is `step² Σ s_j² norm(W_j)²`, channels that flattening adds are `Σ absmax(X_j) / (s_j T)`: this is
/// where neither gains from the other. The exponents sum to 1, so a scale that was put into the model before cancels.
pub fn balancing_scales(x_absmax: &[f32], w_norm: &[f32]) -> Vec<f32> {
    assert_eq!(x_absmax.len(), w_norm.len(), "a norm for each channel");
    let log = |(&x, &w): (&f32, &f32)| match x > 0.0 && w > 0.0 {
        true => Some((libm::log(x.into()) - 2.0 * libm::log(w.into())) / 3.0),
        false => None,
    };
    let logs: Vec<Option<f64>> = x_absmax.iter().zip(w_norm).map(log).collect();
    let count = logs.iter().flatten().count().max(1);
    let mean = logs.iter().flatten().sum::<f64>() / count as f64;
    let scale = |log: Option<f64>| match log {
        Some(log) => libm::exp(log - mean).clamp(SCALE_RANGE[0], SCALE_RANGE[1]) as f32,
        None => 1.0,
    };
    logs.into_iter().map(scale).collect()
}

/// Raises scales so that no row of the producer's `w` [scales, columns], divided by its own, exceeds what was the largest value
/// of `w`: with one scale for the tensor, a row that grows beyond it costs every other row.
pub fn bound_rows(scales: &mut [f32], w: &[f32]) {
    let columns = w.len() / scales.len();
    let absmax = |values: &[f32]| values.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    let largest = absmax(w);
    if largest > 0.0 {
        for (scale, row) in scales.iter_mut().zip(w.chunks_exact(columns)) {
            *scale = scale.max(absmax(row) / largest);
        }
    }
}

/// The largest magnitude of each column of `w` [rows, columns] is put into `absmax` [columns] where it is larger: over several
/// weights that read one input, or several batches of rows of X.
pub fn widen_column_absmax(absmax: &mut [f32], w: &[f32]) {
    for row in w.chunks_exact(absmax.len()) {
        for (absmax, w) in absmax.iter_mut().zip(row) {
            *absmax = absmax.max(w.abs());
        }
    }
}

/// The producer's side of the fold: row i of `w` [scales, columns] is divided by `scales[i]`. A norm's weight and a bias are
/// one column.
pub fn divide_rows(w: &mut [f32], scales: &[f32]) {
    let columns = w.len() / scales.len();
    for (row, scale) in w.chunks_exact_mut(columns).zip(scales) {
        row.iter_mut().for_each(|w| *w /= scale);
    }
}

/// The consumer's side of the fold: column j of `w` [rows, scales] is multiplied by `scales[j]`.
pub fn multiply_columns(w: &mut [f32], scales: &[f32]) {
    for row in w.chunks_exact_mut(scales.len()) {
        for (w, scale) in row.iter_mut().zip(scales) {
            *w *= scale;
        }
    }
}
