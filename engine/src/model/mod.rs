//! The graph of the transformer: which weights there are, and the plan of a step over them. Knows no device.

mod kv_cache;
mod llama;
mod weights;

pub use kv_cache::{Pages, PagesExhausted};
pub use weights::{
    DecoderLayer, HeadWeights, LinearSpec, LinearWeights, MAX_INT_FEATURES, NormWeights, Part,
    Source, TableWeights, Weights, WeightsConfig,
};

use crate::checkpoint::ModelConfig;
use crate::ops::{
    AttentionInput, KvPools, Sampling, SamplingBuffers, kv_block_words, sample_and_advance,
};
use crate::plan::{BufferId, Features, Plan, SharedBuffers};
use crate::sampler::REPEAT_WINDOW;
use crate::tensor::KvType;
use plateau_shaders::PAGE_SIZE;

/// Sizes that the user decides.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Tokens of one sequence.
    pub context_size: u32,
    pub max_sequences: u32,
    /// Rows of one step.
    pub max_rows: u32,
    pub kv_type: KvType,
}

impl Capacity {
    /// Pages of one sequence.
    pub const fn table_stride(&self) -> u32 {
        self.context_size.div_ceil(PAGE_SIZE)
    }

    pub const fn pages(&self) -> u32 {
        self.table_stride() * self.max_sequences
    }
}

/// The buffers that the host writes before a step.
#[derive(Clone, Copy, Debug)]
pub struct StepBuffers {
    /// `[max_rows]`
    pub tokens: BufferId,
    /// `[max_rows]` (sequence, position)
    pub row_info: BufferId,
    /// `[max_rows]` (first row, rows)
    pub tiles: BufferId,
    /// `[max_rows]` the rows whose logits are wanted
    pub logit_index: BufferId,
    /// [max_sequences, table_stride]
    pub block_table: BufferId,
    /// [positions, head_dim / 2] (cos, sin)
    pub rope_table: BufferId,
    /// [max_rows, hidden] f32, of a model that is a part: what its first layer takes and its last one leaves.
    pub hidden: Option<BufferId>,
}

/// A model's weights, caches and step buffers, as names and sizes.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: ModelConfig,
    pub part: Part,
    pub capacity: Capacity,
    /// Of the device that the plans are for.
    pub features: Features,
    pub weights: Weights,
    pub step: StepBuffers,
    pub decode: SamplingBuffers,
    /// One pair for each layer.
    pub kv_pools: Vec<KvPools>,
    pub shared: SharedBuffers,
    /// Bytes of `shared` that are weights, and that are KV cache.
    pub weight_bytes: u64,
    pub kv_bytes: u64,
}

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepShape {
    /// Rows that the host wrote to the step buffers; logits of `logits` of them.
    Rows { rows: u32, tiles: u32, logits: u32 },
    /// One token of each of `rows` sequences, fed by the device itself, and the choice of the next.
    Decode { rows: u32, sampling: Sampling },
}

/// A step's plan, and where its results are.
#[derive(Clone, Debug)]
pub struct Step {
    pub plan: Plan,
    /// [logits, vocab] f32, a scratch buffer of the plan; `None` where none are wanted.
    pub logits: Option<BufferId>,
}

impl Model {
    /// Declares every buffer; no weight is read.
    pub fn new(
        config: ModelConfig,
        part: Part,
        capacity: Capacity,
        features: Features,
        weights_config: &WeightsConfig<'_>,
    ) -> Self {
        let mut shared = SharedBuffers::default();
        let weights = Weights::declare(&config, &part, weights_config, &mut shared);
        let weight_bytes = shared.bytes();
        let kv_words = u64::from(capacity.pages())
            * u64::from(config.num_key_value_heads)
            * kv_block_words(capacity.kv_type, config.head_dim);
        let kv_pools = part
            .layers
            .clone()
            .map(|layer| KvPools {
                k: shared.add(format!("layers.{layer}.k_cache"), kv_words),
                v: shared.add(format!("layers.{layer}.v_cache"), kv_words),
                kv_type: capacity.kv_type,
                table_stride: capacity.table_stride(),
            })
            .collect();
        let kv_bytes = shared.bytes() - weight_bytes;
        let rows = u64::from(capacity.max_rows);
        let sequences = u64::from(capacity.max_sequences);
        let step = StepBuffers {
            tokens: shared.add("step.tokens", rows),
            row_info: shared.add("step.row_info", 2 * rows),
            tiles: shared.add("step.tiles", 2 * rows),
            logit_index: shared.add("step.logit_index", rows),
            block_table: shared.add(
                "step.block_table",
                sequences * u64::from(capacity.table_stride()),
            ),
            rope_table: shared.add(
                "step.rope_table",
                u64::from(capacity.context_size) * u64::from(config.head_dim),
            ),
            hidden: (part != Part::whole(&config))
                .then(|| shared.add("step.hidden", rows * u64::from(config.hidden_size))),
        };
        let decode = SamplingBuffers {
            tokens: shared.add("decode.tokens", sequences),
            row_info: shared.add("decode.row_info", 2 * sequences),
            chosen: shared.add("decode.chosen", sequences),
            history: shared.add("decode.history", sequences * u64::from(REPEAT_WINDOW)),
            window: REPEAT_WINDOW,
        };
        Self {
            config,
            part,
            capacity,
            features,
            weights,
            step,
            decode,
            kv_pools,
            shared,
            weight_bytes,
            kv_bytes,
        }
    }

    /// The plan of one step. Logits, and so [`StepShape::Decode`], need a part with a head.
    pub fn step(&self, shape: &StepShape) -> Step {
        let mut plan = Plan::new(self.features);
        match *shape {
            StepShape::Rows {
                rows,
                tiles,
                logits,
            } => {
                let input = AttentionInput {
                    row_info: self.step.row_info,
                    block_table: self.step.block_table,
                    tiles: self.step.tiles,
                    num_tiles: tiles,
                };
                let x = llama::decoder(self, &mut plan, self.step.tokens, input, rows);
                let logits = (logits > 0).then(|| {
                    llama::head(
                        self,
                        &mut plan,
                        x,
                        rows,
                        Some((self.step.logit_index, logits)),
                    )
                });
                Step { plan, logits }
            }
            StepShape::Decode { rows, sampling } => {
                let input = AttentionInput {
                    row_info: self.decode.row_info,
                    block_table: self.step.block_table,
                    tiles: self.step.tiles,
                    num_tiles: rows,
                };
                let x = llama::decoder(self, &mut plan, self.decode.tokens, input, rows);
                let logits = llama::head(self, &mut plan, x, rows, None);
                sample_and_advance(
                    &mut plan,
                    &sampling,
                    logits,
                    self.decode,
                    rows,
                    self.config.vocab_size,
                );
                Step {
                    plan,
                    logits: Some(logits),
                }
            }
        }
    }

    /// (cos, sin) of every position and pair, [context_size, head_dim / 2].
    pub fn rope_table(&self) -> Vec<[f32; 2]> {
        let frequencies = self.config.rope.inverse_frequencies(self.config.head_dim);
        let angles = (0..self.capacity.context_size).flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| f64::from(position) * frequency)
        });
        angles
            .map(|angle| [angle.cos() as f32, angle.sin() as f32])
            .collect()
    }

    /// Number of weights, embedding and head included (tied: once).
    pub fn parameters(&self) -> u64 {
        self.weights.parameters(&self.config)
    }
}
