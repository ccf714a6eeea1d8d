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
pub mod refit;
pub mod report;
mod sensitivity;
pub mod smooth;

pub use pipeline::{Progress, Source, quantize};
pub use recipe::Recipe;

use crate::checkpoint::{CopyError, LoadError, WriteError};
use crate::exec::DeviceError;

/// Why a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("{folder}: quantized already ({recipe}); quantizing needs the float model")]
    AlreadyQuantized { folder: String, recipe: String },
    #[error("the recipe {recipe} needs calibration: sample text")]
    NeedsCalibration { recipe: String },
    #[error(
        "the recipe {recipe} stores keys and values of the first token, but window {window} of the sample text begins with token {found}, the first one with {expected}"
    )]
    Prefix {
        recipe: String,
        window: usize,
        found: u32,
        expected: u32,
    },
    #[error("{rest} bytes go to embedding, head and norms; of the rest, {source}")]
    OverBudget {
        rest: u64,
        source: bit_width::OverBudget,
    },
    #[error("{linear}: {source}")]
    Gptq {
        linear: String,
        source: gptq::GptqError,
    },
}

impl From<CopyError> for QuantizeError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Load(error) => Self::Load(error),
            CopyError::Write(error) => Self::Write(error),
        }
    }
}
