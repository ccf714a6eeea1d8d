//! Norms of a row or of a head.

pub mod head_norm;
pub mod layer_norm;
pub mod layer_norm_flat;
pub mod rms_norm;
pub mod rms_norm_flat;

/// `y = y / sqrt(mean(y^2) + eps) * weight`: what every norm here does to its slice.
fn normalize(y: &mut [f32], weight: &[f32], eps: f32) {
    let mean = y.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / y.len() as f64;
    let inv = 1.0 / (mean + f64::from(eps)).sqrt();
    for (y, &weight) in y.iter_mut().zip(weight) {
        *y = (f64::from(*y) * inv * f64::from(weight)) as f32;
    }
}
