//! Recipes: the same steps, each with what it does or leaves out.

use super::gptq::{GptqConfig, Order};
use crate::tensor::{Bits, Granularity, WeightBits};

/// How the linears' inputs become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// A scale for each token, from its absmax.
    Dynamic,
    /// One scale for the tensor, found by calibration.
    Static,
    /// They do not: weights are dequantized while they are loaded.
    Float,
}

/// How static activations are cut into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// One part each: the scale covers the largest value.
    None,
    /// FlattenQuant: as many as cover the calibrated maximum.
    Cover,
    /// As many as lower the expected error most.
    Search,
}

/// How bits are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BitPolicy {
    /// The same for every linear.
    All {
        weights: WeightBits,
        activations: Bits,
    },
    /// INT4 weights and activations for at least this share of the multiply-accumulates, INT8 for the rest.
    Int4Share(f64),
    /// INT4 weights and activations where INT4's KL divergence is at most so many times that of INT8.
    DivergenceLimit(f64),
    /// INT8 activations; weights of INT4 in groups, INT5, INT6 or INT8, so that all tensors take at most so many bytes.
    Bytes(u64),
}

/// Bits of a group of linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub weights: WeightBits,
    /// Of INT4 weights; 0 for none.
    pub group_size: u32,
    /// No matter where activations are floats.
    pub activations: Bits,
}

/// How scales move between activations and weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smoothing {
    Off,
    /// SmoothQuant's formula with this migration strength.
    Strength(f32),
    /// What makes the noise of flattened inputs least.
    Balance,
}

/// What a quantization does: every knob.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    pub name: String,
    pub activations: Activations,
    pub bits: BitPolicy,
    pub weight_scale: Granularity,
    /// Of INT4 weights: features that share an integer multiplier; 0 for none.
    pub group_size: u32,
    pub smoothing: Smoothing,
    pub parts: Parts,
    /// Channels that flattening may add, as shares of a linear's inputs: with INT4 activations, with INT8 ones, and with INT8
    /// ones where the input is that of the MLP's second linear, which has the largest outliers.
    pub added_int4: f32,
    pub added_int8: f32,
    pub added_down: f32,
    /// GPTQ; without it weights are rounded to nearest.
    pub gptq: Option<GptqConfig>,
    /// Whether weights are fitted to the quantized inputs before GPTQ rounds them. Static activations only.
    pub refit: bool,
    /// Whether weights' scales are searched for, clipping their largest values.
    pub clip: bool,
    /// Whether keys and values of the first token `<s>` are stored as floats.
    pub prefix: bool,
}

/// Names and one line each, in the order of the help.
pub const RECIPES: [(&str, &str); 11] = [
    (
        "flattenquant-w4a8",
        "INT4 weights in groups, flattened INT8 inputs (the default)",
    ),
    (
        "flattenquant",
        "the paper: INT4 by INT4 for 48.29 % of the work, else INT8",
    ),
    (
        "flattenquant-w8a8",
        "INT8 weights and flattened INT8 inputs",
    ),
    ("smoothquant-w8a8", "SmoothQuant, one scale for each tensor"),
    ("smoothquant-w4a4", "the same in INT4"),
    ("rtn-w8a8", "round to nearest, one scale for each tensor"),
    ("rtn-w4a4", "the same in INT4"),
    (
        "rtn-w4a8",
        "round to nearest, INT4 in groups of 32; no calibration",
    ),
    (
        "rtn-w8a8-dynamic",
        "round to nearest, INT8 by channel; no calibration",
    ),
    (
        "gptq-w4a16",
        "GPTQ, INT4 in groups of 32, float activations: a baseline",
    ),
    (
        "rtn-w4a16",
        "round to nearest, the same format; no calibration",
    ),
];

impl Recipe {
    /// The recipe of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = |weights, activations| BitPolicy::All {
            weights,
            activations,
        };
        let a8 = |weights| all(weights, Bits::Int8);
        let w4a4 = all(WeightBits::Int4, Bits::Int4);
        // Per tensor and static, all steps off.
        let plain = Self {
            name: name.to_owned(),
            activations: Activations::Static,
            bits: a8(WeightBits::Int8),
            weight_scale: Granularity::PerTensor,
            group_size: 0,
            smoothing: Smoothing::Off,
            parts: Parts::None,
            added_int4: 0.0,
            added_int8: 0.0,
            added_down: 0.0,
            gptq: None,
            refit: false,
            clip: false,
            prefix: false,
        };
        let flatten = Self {
            smoothing: Smoothing::Balance,
            parts: Parts::Search,
            added_int4: 0.25,
            added_int8: 0.05,
            added_down: 0.2,
            gptq: Some(GptqConfig {
                order: Order::Descending,
                damping: 0.05,
            }),
            refit: true,
            clip: true,
            prefix: true,
            ..plain.clone()
        };
        let dynamic = Self {
            activations: Activations::Dynamic,
            weight_scale: Granularity::PerChannel,
            ..plain.clone()
        };
        let w4a16 = Self {
            activations: Activations::Float,
            bits: a8(WeightBits::Int4),
            group_size: 32,
            ..dynamic.clone()
        };
        Some(match name {
            "flattenquant-w4a8" => Self {
                bits: a8(WeightBits::Int4),
                weight_scale: Granularity::PerChannel,
                group_size: 32,
                ..flatten
            },
            "flattenquant" => Self {
                bits: BitPolicy::Int4Share(0.4829),
                ..flatten
            },
            "flattenquant-w8a8" => flatten,
            "smoothquant-w8a8" => Self {
                smoothing: Smoothing::Strength(0.5),
                ..plain
            },
            "smoothquant-w4a4" => Self {
                smoothing: Smoothing::Strength(0.5),
                bits: w4a4,
                ..plain
            },
            "rtn-w8a8" => plain,
            "rtn-w4a4" => Self {
                bits: w4a4,
                ..plain
            },
            "rtn-w4a8" => Self {
                bits: a8(WeightBits::Int4),
                group_size: 32,
                ..dynamic
            },
            "rtn-w8a8-dynamic" => dynamic,
            "rtn-w4a16" => w4a16,
            "gptq-w4a16" => Self {
                gptq: Some(GptqConfig {
                    order: Order::Descending,
                    ..GptqConfig::default()
                }),
                clip: true,
                ..w4a16
            },
            _ => return None,
        })
    }

    /// The bits that a linear may get, the coarsest first.
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |weights, group_size, activations| Choice {
            weights,
            group_size: if weights == WeightBits::Int4 {
                group_size
            } else {
                0
            },
            activations,
        };
        match self.bits {
            BitPolicy::All {
                weights,
                activations,
            } => vec![choice(weights, self.group_size, activations)],
            BitPolicy::Int4Share(_) | BitPolicy::DivergenceLimit(_) => vec![
                choice(WeightBits::Int4, self.group_size, Bits::Int4),
                choice(WeightBits::Int8, 0, Bits::Int8),
            ],
            BitPolicy::Bytes(_) => vec![
                choice(WeightBits::Int4, 128, Bits::Int8),
                choice(WeightBits::Int4, 64, Bits::Int8),
                choice(WeightBits::Int4, 32, Bits::Int8),
                choice(WeightBits::Int5, 0, Bits::Int8),
                choice(WeightBits::Int6, 0, Bits::Int8),
                choice(WeightBits::Int8, 0, Bits::Int8),
            ],
        }
    }

    /// Channels that flattening may add, as a share of a linear's inputs.
    /// `second` says whether it is the MLP's second linear.
    pub const fn added(&self, activations: Bits, second: bool) -> f32 {
        match (activations, second) {
            (Bits::Int4, _) => self.added_int4,
            (Bits::Int8, false) => self.added_int8,
            (Bits::Int8, true) => self.added_down,
        }
    }

    /// Whether sample text is run through the model.
    pub fn needs_calibration(&self) -> bool {
        self.activations == Activations::Static
            || self.gptq.is_some()
            || self.smoothing != Smoothing::Off
            || self.prefix
            || !matches!(self.bits, BitPolicy::All { .. })
    }
}
