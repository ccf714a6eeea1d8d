//! Offline: from a float checkpoint to a quantized one. Nothing of the runtime imports this.

pub mod activation;
pub mod bit_width;
pub mod calibrate;
pub mod flatten;
pub mod gptq;
pub mod grid;
pub mod layer;
mod linalg;
pub mod linear;
pub mod outliers;
pub mod pipeline;
pub mod recipe;
pub mod report;
pub mod rtn;
mod sensitivity;
pub mod smooth;

pub use rtn::{QuantizeError, round_to_nearest, round_to_nearest_in_shards};
