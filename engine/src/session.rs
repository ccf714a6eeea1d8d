//! A loaded model with its KV cache: prompts in, logits or tokens out.

use crate::Error;
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::exec::Executor;
use crate::sampler::SamplerConfig;
use crate::tensor::{Granularity, KvType, Quant};
use std::ops::ControlFlow;

/// What the user decides about a loaded model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Rounds a float model's linears to nearest; `None` is f16 for a float model and the checkpoint's own for a quantized one.
    pub quant: Option<Quant>,
    pub weight_scale: Granularity,
    pub kv_type: KvType,
    /// Tokens per sequence; `None` is the model's own limit, at most 4096.
    pub context_size: Option<u32>,
    /// Sequences that can be decoded together.
    pub max_sequences: u32,
    /// Rows of one prefill submission.
    pub max_rows: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            quant: None,
            weight_scale: Granularity::PerChannel,
            kv_type: KvType::F16,
            context_size: None,
            max_sequences: 1,
            max_rows: 512,
        }
    }
}

/// Device memory by use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeeded {
    pub weights: u64,
    pub kv_cache: u64,
    /// Activations of the largest step, and small tables.
    pub scratch: u64,
}

impl MemoryNeeded {
    pub const fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.scratch
    }
}

/// Bytes of weights read so far, of how many.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    pub done: u64,
    pub total: u64,
}

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    #[error("the prompt has {found} tokens, the context holds {limit}")]
    PromptTooLong { found: usize, limit: u32 },
    #[error("token {index} is {found}, the vocabulary has {vocab}")]
    UnknownToken {
        index: usize,
        found: u32,
        vocab: u32,
    },
    #[error("--quant rounds a float model; this checkpoint is quantized already ({recipe})")]
    AlreadyQuantized { recipe: String },
    #[error("the model needs {needed} bytes of device memory, {name} has {available}")]
    DoesNotFit {
        name: String,
        needed: u64,
        available: u64,
    },
    #[error("context size {found}: must be between 1 and {limit}")]
    ContextSize { found: u32, limit: u32 },
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The callback said so (an end token, a stop string, Ctrl-C).
    Stopped,
    /// As many tokens as were asked for.
    Length,
    /// No room left in the context.
    ContextFull,
}

/// What a generation took.
#[derive(Clone, Copy, Debug)]
pub struct GenerateReport {
    pub finish: Finish,
    pub prompt_tokens: usize,
    /// Tokens handed to the callback.
    pub new_tokens: usize,
    pub prefill_ns: u64,
    pub decode_ns: u64,
}

/// A loaded model.
pub struct Session {
    config: ModelConfig,
}

impl Session {
    /// Reads the weights chunk by chunk into device memory.
    pub async fn load(
        _checkpoint: &Checkpoint,
        _executor: Executor,
        _options: &LoadOptions,
        _progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, Error> {
        unimplemented!("session")
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokens that fit one sequence.
    pub fn context_size(&self) -> u32 {
        unimplemented!("session")
    }

    pub fn memory(&self) -> MemoryNeeded {
        unimplemented!("session")
    }

    /// Number of weights, embedding and head included (tied: once).
    pub fn parameters(&self) -> u64 {
        unimplemented!("session")
    }

    /// Logits of every token, [tokens, vocab], of a fresh sequence. `on_rows(first_row, logits)` is called as they come.
    pub async fn logits(
        &mut self,
        _ids: &[u32],
        _on_rows: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        unimplemented!("session")
    }

    /// Runs a prompt through a fresh sequence without asking for anything back but its end: what `bench` times as pp.
    pub async fn prefill(&mut self, _ids: &[u32]) -> Result<(), Error> {
        unimplemented!("session")
    }

    /// Runs the prompt, then hands each new token to `on_token` until it breaks, `max_new_tokens` came, or the context is
    /// full. Some tokens may be computed ahead of the callback and dropped.
    pub async fn generate(
        &mut self,
        _prompt: &[u32],
        _sampler: &SamplerConfig,
        _max_new_tokens: Option<usize>,
        _on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<GenerateReport, Error> {
        unimplemented!("session")
    }
}

/// What [`Session::load`] would take, from shapes alone.
pub fn memory_needed(
    _checkpoint: &Checkpoint,
    _options: &LoadOptions,
) -> Result<MemoryNeeded, Error> {
    unimplemented!("session")
}
