//! The quantized checkpoint: `quantization_config` of `config.json`, and the names and shapes of its tensors.

use crate::tensor::{Bits, Granularity};
use std::collections::BTreeMap;

/// Where the scale of a linear's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationScale {
    /// absmax of each token, at run time.
    Dynamic,
    /// One for the tensor, in the checkpoint, with a flatten map.
    Static,
}

/// How one linear is stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearFormat {
    pub weight_bits: Bits,
    pub weight_scale: Granularity,
    /// Features that share an integer multiplier of the channel's scale: 32, 64, 128, or 0 for none. INT4 only.
    pub group_size: u32,
    pub activation_bits: Bits,
    pub activation_scale: ActivationScale,
}

/// `quantization_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationConfig {
    /// Of the format; this program reads 1.
    pub version: u32,
    /// The name of the recipe that made it, for messages.
    pub recipe: String,
    pub default: LinearFormat,
    /// Linears that differ, by name: `model.layers.3.mlp.down_proj`.
    pub overrides: BTreeMap<String, LinearFormat>,
}

impl QuantizationConfig {
    /// The format of the linear `name`.
    pub fn format(&self, name: &str) -> LinearFormat {
        self.overrides.get(name).copied().unwrap_or(self.default)
    }
}
