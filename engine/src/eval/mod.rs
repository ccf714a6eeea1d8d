//! How good a model is: perplexity, divergence from the float original, and zero-shot tasks.
//!
//! Everything is computed from logits on the host, in f64. The models are scored as they run: nothing here knows how one
//! was quantized.

mod likelihood;
mod statistics;
mod tasks;
mod text;

pub use likelihood::{Likelihood, Request, likelihoods};
pub(crate) use statistics::LogitRow;
pub use statistics::{Tally, quantile};
pub use tasks::{Encoded, Question, Questions, Task, TaskScore, UnknownTask};
pub use text::{Divergence, Score, Subject, TextScore, WindowOptions, Windows, score_text};

use crate::Error;
use crate::checkpoint::LoadError;

/// Why a model cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Engine(#[from] Error),
    /// A row of a task's file that is not what the task needs.
    #[error("{file}, line {line}: {field}: found {found}, expected {expected}")]
    Row {
        file: String,
        /// From 1.
        line: usize,
        field: String,
        found: String,
        expected: String,
    },
    #[error("{file}: found no rows, expected one JSON object on each line")]
    NoRows { file: String },
    #[error("{model}: a logit is not finite ({place})")]
    NotFinite { model: String, place: String },
    #[error(
        "{model} has a vocabulary of {found}, {reference} of {expected}: their logits do not compare"
    )]
    Vocabulary {
        model: String,
        found: u32,
        reference: String,
        expected: u32,
    },
}

impl From<LoadError> for EvalError {
    fn from(error: LoadError) -> Self {
        Self::Engine(error.into())
    }
}
