//! Number formats: how weights, activations and the KV cache are stored.

use std::fmt;
use std::str::FromStr;

/// Bit width of an integer weight or activation; symmetric, no zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bits {
    Int4,
    Int8,
}

impl Bits {
    /// Largest magnitude used: 7 or 127.
    pub const fn q_max(self) -> u32 {
        match self {
            Bits::Int4 => 7,
            Bits::Int8 => 127,
        }
    }

    pub const fn count(self) -> u32 {
        match self {
            Bits::Int4 => 4,
            Bits::Int8 => 8,
        }
    }
}

/// Bit width of an integer weight in a file; symmetric, no zero point. There are kernels for [`Bits`]: INT5 and INT6 become INT8
/// while they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightBits {
    Int4,
    Int5,
    Int6,
    Int8,
}

impl WeightBits {
    /// The coarsest first.
    pub const ALL: [WeightBits; 4] = [
        WeightBits::Int4,
        WeightBits::Int5,
        WeightBits::Int6,
        WeightBits::Int8,
    ];

    pub const fn count(self) -> u32 {
        match self {
            WeightBits::Int4 => 4,
            WeightBits::Int5 => 5,
            WeightBits::Int6 => 6,
            WeightBits::Int8 => 8,
        }
    }

    /// Largest magnitude used: 7, 15, 31 or 127.
    pub const fn q_max(self) -> u32 {
        (1 << (self.count() - 1)) - 1
    }

    /// How many of a weight's bits lie in a plane of their own, beside nibbles; 0 for INT4 and INT8.
    pub const fn high_bits(self) -> u32 {
        match self {
            WeightBits::Int4 | WeightBits::Int8 => 0,
            WeightBits::Int5 => 1,
            WeightBits::Int6 => 2,
        }
    }

    /// What a device holds and computes with.
    pub const fn on_device(self) -> Bits {
        match self {
            WeightBits::Int4 => Bits::Int4,
            WeightBits::Int5 | WeightBits::Int6 | WeightBits::Int8 => Bits::Int8,
        }
    }
}

/// What one scale covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Granularity {
    /// One scale for each output channel of a weight.
    #[default]
    PerChannel,
    /// One scale for the whole tensor.
    PerTensor,
}

/// How the decoder's linears compute: `--quant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    F32,
    F16,
    W8A8,
    W4A8,
    W4A4,
}

impl Quant {
    pub const ALL: [Quant; 5] = [
        Quant::F32,
        Quant::F16,
        Quant::W8A8,
        Quant::W4A8,
        Quant::W4A4,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Quant::F32 => "f32",
            Quant::F16 => "f16",
            Quant::W8A8 => "w8a8",
            Quant::W4A8 => "w4a8",
            Quant::W4A4 => "w4a4",
        }
    }
}

/// How the KV cache is stored: `--kv-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvType {
    F32,
    #[default]
    F16,
    /// A scale for each token and kv head, of keys and of values.
    I8,
}

impl KvType {
    pub const ALL: [KvType; 3] = [KvType::F32, KvType::F16, KvType::I8];

    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::I8 => "i8",
        }
    }
}

/// A word that is not one of the names.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{found}' is not one of {expected}")]
pub struct UnknownName {
    pub found: String,
    pub expected: String,
}

fn by_name<T: Copy>(all: &[T], name: fn(T) -> &'static str, found: &str) -> Result<T, UnknownName> {
    all.iter()
        .copied()
        .find(|&item| name(item) == found)
        .ok_or_else(|| UnknownName {
            found: found.to_owned(),
            expected: all
                .iter()
                .map(|&item| name(item))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

impl FromStr for Quant {
    type Err = UnknownName;
    fn from_str(s: &str) -> Result<Self, UnknownName> {
        by_name(&Self::ALL, Self::name, s)
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvType {
    type Err = UnknownName;
    fn from_str(s: &str) -> Result<Self, UnknownName> {
        by_name(&Self::ALL, Self::name, s)
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
