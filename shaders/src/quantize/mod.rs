//! Float activations to the integers of a linear.

pub mod flatten_quantize;
pub mod quantize_dynamic;
