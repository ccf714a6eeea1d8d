//! Offline: from a float checkpoint to a quantized one. Nothing of the runtime imports this.

pub mod bit_width;
pub mod flatten;
pub mod gptq;
pub mod grid;
mod linalg;
pub mod rtn;
pub mod smooth;

pub use rtn::{QuantizeError, round_to_nearest, round_to_nearest_in_shards};
