//! The graph of the transformer: which weights there are, and the plan of a step over them. Knows no device.

mod kv_cache;
mod llama;
mod opt;
mod weights;

pub use kv_cache::{Pages, PagesExhausted};
pub use weights::{
    Decoder, LinearSpec, LinearWeights, NormPart, NormWeights, Part, Source, TableWeights, Weights,
    WeightsConfig,
};

use crate::checkpoint::{Architecture, ModelConfig};
pub use crate::ops::planned_pages;
use crate::ops::{
    Activations, AttentionInput, AttentionShape, KvPools, Projection, Sampling, SamplingBuffers,
    kv_append, kv_block_words, sample_and_advance, stored_row,
};
use crate::plan::{BufferId, Features, Plan, SharedBuffers};
use crate::sampler::REPEAT_WINDOW;
use crate::tensor::KvType;
use plateau_shaders::{PAGE_SIZE, padded};

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
    /// [positions, head_dim / 2] (cos, sin); unused where a family has no rope
    pub rope_table: BufferId,
    /// [max_rows, hidden] f32, of a model that is a part: what its first layer takes and its last one leaves.
    pub hidden: Option<BufferId>,
}

/// Keys and values from the checkpoint, for sequences that begin with certain tokens.
#[derive(Clone, Debug)]
pub struct StoredPrefix {
    pub tokens: Vec<u32>,
    /// `[tokens]` (sequence, position) of the sequence that gets them
    pub row_info: BufferId,
    /// [tokens, 2, kv_heads * head_dim] f32 of each layer: keys after rope, then values
    pub layers: Vec<BufferId>,
    /// [hidden] f32, the decoder's output for a single token, where the checkpoint has it
    pub hidden: Option<BufferId>,
}

impl StoredPrefix {
    /// The single token, and what the decoder makes of it.
    fn hidden(&self) -> Option<(u32, BufferId)> {
        self.tokens.first().copied().zip(self.hidden)
    }
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
    pub prefix: Option<StoredPrefix>,
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
    /// Their sequences have `pages` pages at most: [`planned_pages`].
    Decode {
        rows: u32,
        pages: u32,
        sampling: Sampling,
    },
    /// The stored prefix to the pages of one sequence.
    Prefix,
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
        let shared = SharedBuffers::default();
        Self::after(shared, config, part, capacity, features, weights_config)
    }

    /// The same, its buffers after those that there are.
    pub fn after(
        mut shared: SharedBuffers,
        config: ModelConfig,
        part: Part,
        capacity: Capacity,
        features: Features,
        weights_config: &WeightsConfig<'_>,
    ) -> Self {
        // OPT's decode attention is not fused, so it has none on matrices.
        let features = Features {
            matrix_attention: features.matrix_attention
                && matches!(config.architecture, Architecture::Llama(_)),
            ..features
        };
        let before = shared.bytes();
        let weights = Weights::declare(&config, &part, weights_config, &mut shared);
        let weight_bytes = shared.bytes() - before;
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
        let kv_bytes = shared.bytes() - before - weight_bytes;
        let prefix = (!weights_config.prefix_tokens.is_empty())
            .then(|| stored_prefix(&config, &part, weights_config, &mut shared));
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
                match &config.architecture {
                    Architecture::Llama(_) => {
                        u64::from(capacity.context_size) * u64::from(config.head_dim)
                    }
                    Architecture::Opt(_) => 0,
                },
            ),
            hidden: (part != Part::whole(&config))
                .then(|| shared.add("step.hidden", rows * u64::from(config.hidden_size))),
        };
        let decode = SamplingBuffers {
            tokens: shared.add("decode.tokens", sequences),
            row_info: shared.add("decode.row_info", 2 * sequences),
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
            prefix,
            shared,
            weight_bytes,
            kv_bytes,
        }
    }

    /// The plan of one step. Logits, and so [`StepShape::Decode`], need a part with a head.
    pub fn step(&self, shape: &StepShape) -> Step {
        let mut plan = Plan::new(self.features);
        let logits = self.add_step(&mut plan, shape);
        Step { plan, logits }
    }

    /// Adds a step to a plan. Returns where its logits will be.
    pub fn add_step(&self, plan: &mut Plan, shape: &StepShape) -> Option<BufferId> {
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
                    pages: None,
                };
                let x = self.decoder(plan, self.step.tokens, input, rows);
                (logits > 0)
                    .then(|| self.head(plan, x, rows, Some((self.step.logit_index, logits))))
            }
            StepShape::Decode {
                rows,
                pages,
                sampling,
            } => {
                let input = AttentionInput {
                    row_info: self.decode.row_info,
                    block_table: self.step.block_table,
                    tiles: self.step.tiles,
                    num_tiles: rows,
                    pages: Some(pages),
                };
                let x = self.decoder(plan, self.decode.tokens, input, rows);
                let logits = self.head(plan, x, rows, None);
                sample_and_advance(
                    plan,
                    &sampling,
                    logits,
                    self.decode,
                    rows,
                    self.config.vocab_size,
                );
                Some(logits)
            }
            StepShape::Prefix => {
                if let Some(prefix) = &self.prefix {
                    self.append_prefix(plan, prefix);
                }
                None
            }
        }
    }

    /// Writes the stored keys and values as a step writes those that it computes.
    fn append_prefix(&self, plan: &mut Plan, prefix: &StoredPrefix) {
        let shape = AttentionShape {
            heads: 0,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            window: 0,
        };
        let input = AttentionInput {
            row_info: prefix.row_info,
            block_table: self.step.block_table,
            tiles: self.step.tiles,
            num_tiles: 0,
            pages: None,
        };
        let rows = prefix.tokens.len() as u32;
        let layers = self.part.layers.clone().zip(&prefix.layers);
        for ((layer, kv), pools) in layers.zip(&self.kv_pools) {
            let label = format!("layers.{layer}.self_attn.kv_prefix");
            kv_append(plan, label, shape, input, *kv, *pools, rows);
        }
    }

    /// Embedding and decoder layers, as far as the part has them: the residual stream, [rows, hidden].
    fn decoder(
        &self,
        plan: &mut Plan,
        tokens: BufferId,
        input: AttentionInput,
        rows: u32,
    ) -> BufferId {
        let x = match &self.weights.decoder {
            Decoder::Llama(w) => llama::decoder(self, w, plan, tokens, input, rows),
            Decoder::Opt(w) => opt::decoder(self, w, plan, tokens, input, rows),
        };
        if let Some((token, stored)) = self.prefix.as_ref().and_then(StoredPrefix::hidden) {
            let hidden = self.config.hidden_size;
            stored_row(plan, tokens, input.row_info, token, stored, x, rows, hidden);
        }
        x
    }

    /// Last norm and head: logits of all rows of `x`, or of those that `index` names; [rows or count, vocab].
    fn head(
        &self,
        plan: &mut Plan,
        x: BufferId,
        rows: u32,
        index: Option<(BufferId, u32)>,
    ) -> BufferId {
        match &self.weights.decoder {
            Decoder::Llama(w) => llama::head(self, w, plan, x, rows, index),
            Decoder::Opt(w) => opt::head(self, w, plan, x, rows, index),
        }
    }

    /// The residual stream of a step, [rows, hidden].
    fn residual(&self, plan: &mut Plan, rows: u32) -> BufferId {
        let words = u64::from(rows) * u64::from(self.config.hidden_size);
        let hidden = self.step.hidden;
        hidden.unwrap_or_else(|| plan.scratch("residual", words))
    }

    /// The head's weights.
    ///
    /// # Panics
    /// Where the part has none.
    fn lm_head(&self) -> &Projection {
        let head = self.weights.lm_head.as_ref();
        head.expect("logits are asked of a part with a head")
    }

    /// Room for the quantized input of any projection.
    fn activations(&self, plan: &mut Plan, rows: u32) -> Activations {
        let linears = self.weights.linears().map(|l| l.linear.in_features);
        let widths = linears.chain([self.config.embedding_size()]);
        let widest = widths.max().unwrap_or(0);
        Activations {
            x_q: plan.scratch("x_q", u64::from(rows) * u64::from(padded(widest) / 4)),
            x_scale: plan.scratch("x_scale", u64::from(rows)),
        }
    }

    /// (cos, sin) of every position and pair, [context_size, head_dim / 2]; empty where a family has no rope.
    pub fn rope_table(&self) -> Vec<[f32; 2]> {
        let frequencies = match &self.config.architecture {
            Architecture::Llama(llama) => llama.rope.inverse_frequencies(self.config.head_dim),
            Architecture::Opt(_) => Vec::new(),
        };
        let angles = (0..self.capacity.context_size).flat_map(|position| {
            frequencies
                .iter()
                .map(move |frequency| f64::from(position) * frequency)
        });
        angles
            .map(|angle| [libm::cos(angle) as f32, libm::sin(angle) as f32])
            .collect()
    }

    /// Number of weights, embedding and head included (tied: once).
    pub fn parameters(&self) -> u64 {
        self.weights.parameters()
    }
}

fn stored_prefix(
    config: &ModelConfig,
    part: &Part,
    weights: &WeightsConfig<'_>,
    shared: &mut SharedBuffers,
) -> StoredPrefix {
    let tokens = weights.prefix_tokens;
    let rows = tokens.len() as u64;
    let words = rows * u64::from(2 * config.num_key_value_heads * config.head_dim);
    let layers = part.layers.clone();
    StoredPrefix {
        tokens: tokens.to_vec(),
        row_info: shared.add("kv_prefix.row_info", 2 * rows),
        layers: layers
            .map(|layer| shared.add(format!("layers.{layer}.kv_prefix"), words))
            .collect(),
        hidden: weights
            .hidden_prefix
            .then(|| shared.add("hidden_prefix", config.hidden_size.into())),
    }
}
