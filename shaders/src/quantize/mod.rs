//! Float activations to the integers of a linear, and what calibration sums over them.

pub mod flatten_quantize;
pub mod gram;
pub mod gram_cross;
pub mod gram_f32;
pub mod gram_i8;
pub mod quantize_dynamic;
