//! Offline: from a float checkpoint to a quantized one. Nothing of the runtime imports this.

pub mod rtn;

pub use rtn::{QuantizeError, round_to_nearest, round_to_nearest_in_shards};
