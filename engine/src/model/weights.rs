//! Which tensor of a checkpoint goes where: the one place that knows the names and shapes of the Llama family.

use crate::checkpoint::ModelConfig;
use crate::ops::{EmbeddingTable, Input, Linear, Projection, RowRange, WeightFormat};
use crate::plan::{BufferId, SharedBuffers};
use crate::tensor::Bits;
use std::ops::Range;

/// How one linear is stored and fed.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    pub format: WeightFormat,
    pub input: Input,
}

/// What decides the buffers besides the model's shape.
pub struct WeightsConfig<'a> {
    /// Of each decoder linear, by its name in the checkpoint.
    pub linear: &'a dyn Fn(&str) -> LinearSpec,
    /// Of the embedding and the head: `F32`, `F16` or INT8 per row.
    pub table: WeightFormat,
    /// The largest buffer that can be bound, in bytes; larger weights are split by rows.
    pub max_buffer_bytes: u64,
}

/// Which pieces of a model there are: all of them, or some layers, for a program that has the others elsewhere or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From tokens; otherwise from the hidden states that the host writes.
    pub embedding: bool,
    pub layers: Range<u32>,
    /// To logits; otherwise to hidden states.
    pub head: bool,
}

impl Part {
    /// The whole model.
    pub const fn whole(config: &ModelConfig) -> Self {
        Self {
            embedding: true,
            layers: 0..config.num_hidden_layers,
            head: true,
        }
    }
}

/// Inner dimension of an integer linear at most, so that no accumulator leaves i32: 16 * 8 * 127 * 131072 < 2^31 holds for
/// the largest products of an INT4 weight (16 times the value, or its group multiplier) and an INT8 activation.
pub const MAX_INT_FEATURES: u32 = 131_072;

/// Rows of a linear that come from one linear of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub rows: u32,
}

/// A linear of the plan with its tensors.
#[derive(Clone, Debug)]
pub struct LinearWeights<'a> {
    pub linear: &'a Linear,
    /// Columns of the tensors in the checkpoint's float form.
    pub in_features: u32,
    /// One after another, the linear's rows.
    pub sources: &'a [Source],
}

/// A vector that is used as it is.
#[derive(Clone, Debug)]
pub struct NormWeights {
    pub buffer: BufferId,
    /// The tensors, one after another.
    pub tensors: Vec<String>,
    pub len: u32,
}

/// The embedding or the head as a table of rows.
#[derive(Clone, Debug)]
pub struct TableWeights {
    pub table: EmbeddingTable,
    /// Without `.weight`.
    pub name: String,
}

/// The weights of one decoder layer.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    pub input_layernorm: NormWeights,
    pub qkv_proj: Projection,
    /// q_norm and k_norm (Qwen3).
    pub qk_norm: Option<NormWeights>,
    pub o_proj: Projection,
    pub post_attention_layernorm: NormWeights,
    pub gate_up_proj: Projection,
    pub down_proj: Projection,
    /// Sources of the linears of the four projections, in their order.
    sources: Vec<Vec<Source>>,
}

/// Every weight of a part of the model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Of the embedding, and of a head that is tied to it.
    pub embed_tokens: Option<TableWeights>,
    pub layers: Vec<DecoderLayer>,
    pub head: Option<HeadWeights>,
}

/// Final norm and head.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    pub norm: NormWeights,
    pub lm_head: Projection,
    /// `None` where the head is the embedding.
    pub table: Option<TableWeights>,
}

impl Weights {
    pub(super) fn declare(
        config: &ModelConfig,
        part: &Part,
        weights: &WeightsConfig<'_>,
        shared: &mut SharedBuffers,
    ) -> Self {
        let table = |shared: &mut SharedBuffers, name: &str| TableWeights {
            table: EmbeddingTable {
                hidden: config.hidden_size,
                vocab: config.vocab_size,
                format: weights.table,
                ranges: row_ranges(
                    shared,
                    name,
                    weights.table,
                    config.hidden_size,
                    config.vocab_size,
                    false,
                    weights.max_buffer_bytes,
                ),
            },
            name: name.to_owned(),
        };
        let tied = config.tie_word_embeddings;
        let embed_tokens =
            (part.embedding || part.head && tied).then(|| table(shared, "model.embed_tokens"));
        let layers = part
            .layers
            .clone()
            .map(|layer| declare_layer(config, weights, shared, layer))
            .collect();
        let head = part.head.then(|| {
            let norm = vector(
                shared,
                vec!["model.norm.weight".to_owned()],
                config.hidden_size,
            );
            let own = (!tied).then(|| table(shared, "lm_head"));
            let head_table = own.as_ref().or(embed_tokens.as_ref());
            let lm_head = declare_head(
                config,
                weights.table,
                head_table.expect("a tied head has the embedding's table"),
            );
            HeadWeights {
                norm,
                lm_head,
                table: own,
            }
        });
        Self {
            embed_tokens,
            layers,
            head,
        }
    }

    /// The decoder's linears with their tensors.
    pub fn linears(&self) -> impl Iterator<Item = LinearWeights<'_>> {
        self.layers.iter().flat_map(|layer| {
            let projections = [
                &layer.qkv_proj,
                &layer.o_proj,
                &layer.gate_up_proj,
                &layer.down_proj,
            ];
            let linears = projections
                .into_iter()
                .flat_map(|p| p.linears.iter().map(|linear| (p.in_features, linear)));
            linears
                .zip(&layer.sources)
                .map(|((in_features, linear), sources)| LinearWeights {
                    linear,
                    in_features,
                    sources,
                })
        })
    }

    /// The vectors that are used as they are.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeights> {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.input_layernorm, &layer.post_attention_layernorm]
                .into_iter()
                .chain(&layer.qk_norm)
        });
        layers.chain(self.head.as_ref().map(|head| &head.norm))
    }

    /// The embedding, and the head where it is another tensor.
    pub fn tables(&self) -> impl Iterator<Item = &TableWeights> {
        let head = self.head.as_ref().and_then(|head| head.table.as_ref());
        self.embed_tokens.iter().chain(head)
    }

    pub(super) fn parameters(&self, config: &ModelConfig) -> u64 {
        let linears: u64 = self
            .linears()
            .map(|l| {
                u64::from(l.linear.out_features)
                    * (u64::from(l.in_features) + u64::from(l.linear.has_bias))
            })
            .sum();
        let norms: u64 = self.norms().map(|norm| u64::from(norm.len)).sum();
        let tables = self.tables().count() as u64
            * u64::from(config.vocab_size)
            * u64::from(config.hidden_size);
        linears + norms + tables
    }
}

/// The head over the rows of `table`.
fn declare_head(config: &ModelConfig, format: WeightFormat, table: &TableWeights) -> Projection {
    Projection {
        in_features: config.hidden_size,
        out_features: config.vocab_size,
        linears: vec![Linear {
            label: "lm_head".to_owned(),
            in_features: config.hidden_size,
            out_features: config.vocab_size,
            first_out: 0,
            format,
            input: match format {
                WeightFormat::F32 | WeightFormat::F16 => Input::Float,
                WeightFormat::Int { .. } => Input::Dynamic(Bits::Int8),
            },
            static_buffers: None,
            has_bias: false,
            ranges: table.table.ranges.clone(),
        }],
    }
}

fn declare_layer(
    config: &ModelConfig,
    weights: &WeightsConfig<'_>,
    shared: &mut SharedBuffers,
    layer: u32,
) -> DecoderLayer {
    let prefix = format!("model.layers.{layer}");
    let hidden = config.hidden_size;
    let heads = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let mut sources = Vec::new();
    let mut projection =
        |shared: &mut SharedBuffers, in_features: u32, has_bias: bool, parts: &[(&str, u32)]| {
            let parts: Vec<Source> = parts
                .iter()
                .map(|(name, rows)| Source {
                    name: format!("{prefix}.{name}"),
                    rows: *rows,
                })
                .collect();
            declare_projection(weights, shared, in_features, has_bias, parts, &mut sources)
        };
    let norm = |shared: &mut SharedBuffers, name: &str| {
        vector(shared, vec![format!("{prefix}.{name}.weight")], hidden)
    };
    let qkv = [
        ("self_attn.q_proj", heads),
        ("self_attn.k_proj", kv),
        ("self_attn.v_proj", kv),
    ];
    let gate_up = [
        ("mlp.gate_proj", config.intermediate_size),
        ("mlp.up_proj", config.intermediate_size),
    ];

    let input_layernorm = norm(shared, "input_layernorm");
    let qkv_proj = projection(shared, hidden, config.qkv_bias, &qkv);
    let qk_norm = config.qk_norm.then(|| {
        let tensors = ["q_norm", "k_norm"].map(|name| format!("{prefix}.self_attn.{name}.weight"));
        vector(shared, tensors.to_vec(), config.head_dim)
    });
    let o_proj = projection(
        shared,
        heads,
        config.output_bias,
        &[("self_attn.o_proj", hidden)],
    );
    let post_attention_layernorm = norm(shared, "post_attention_layernorm");
    let gate_up_proj = projection(shared, hidden, config.mlp_bias, &gate_up);
    let down_proj = projection(
        shared,
        config.intermediate_size,
        config.mlp_bias,
        &[("mlp.down_proj", hidden)],
    );
    DecoderLayer {
        input_layernorm,
        qkv_proj,
        qk_norm,
        o_proj,
        post_attention_layernorm,
        gate_up_proj,
        down_proj,
        sources,
    }
}

/// Neighbours with the same format and input become one linear.
fn declare_projection(
    weights: &WeightsConfig<'_>,
    shared: &mut SharedBuffers,
    in_features: u32,
    has_bias: bool,
    parts: Vec<Source>,
    sources: &mut Vec<Vec<Source>>,
) -> Projection {
    let out_features = parts.iter().map(|part| part.rows).sum();
    let mut groups: Vec<(LinearSpec, Vec<Source>)> = Vec::new();
    for part in parts {
        let spec = (weights.linear)(&part.name);
        match groups.last_mut() {
            Some((last, group)) if *last == spec => group.push(part),
            _ => groups.push((spec, vec![part])),
        }
    }
    let mut first_out = 0;
    let mut linears = Vec::new();
    for (spec, group) in groups {
        let rows = group.iter().map(|source| source.rows).sum();
        let label = group
            .iter()
            .map(|source| source.name.as_str())
            .collect::<Vec<_>>()
            .join("+");
        let (flat_features, static_buffers) = match &spec.input {
            Input::Static(input) => {
                let map = shared.add(format!("{label}.flatten_map"), input.map.len() as u64);
                let scale = shared.add(format!("{label}.input_scale"), 1);
                (input.flat_features, Some((map, scale)))
            }
            Input::Float | Input::Dynamic(_) => (in_features, None),
        };
        let ranges = row_ranges(
            shared,
            &label,
            spec.format,
            flat_features,
            rows,
            has_bias,
            weights.max_buffer_bytes,
        );
        linears.push(Linear {
            label,
            in_features: flat_features,
            out_features: rows,
            first_out,
            format: spec.format,
            input: spec.input,
            static_buffers,
            has_bias,
            ranges,
        });
        first_out += rows;
        sources.push(group);
    }
    Projection {
        in_features,
        out_features,
        linears,
    }
}

/// Buffers for `rows` rows, as many ranges as the largest binding asks for.
fn row_ranges(
    shared: &mut SharedBuffers,
    label: &str,
    format: WeightFormat,
    in_features: u32,
    rows: u32,
    has_bias: bool,
    max_buffer_bytes: u64,
) -> Vec<RowRange> {
    let row_words = format.row_words(in_features);
    let fitting = (max_buffer_bytes / 4 / u64::from(row_words)).clamp(1, u64::from(rows)) as u32;
    // Even pieces: the last one is not a sliver.
    let pieces = rows.div_ceil(fitting);
    let per_piece = rows.div_ceil(pieces);
    (0..pieces)
        .map(|piece| {
            let first_row = piece * per_piece;
            let rows = per_piece.min(rows - first_row);
            let suffix = if pieces == 1 {
                String::new()
            } else {
                format!("[{first_row}..{}]", first_row + rows)
            };
            RowRange {
                first_row,
                rows,
                w: shared.add(
                    format!("{label}{suffix}.w"),
                    u64::from(rows) * u64::from(row_words),
                ),
                aux: shared.add(
                    format!("{label}{suffix}.aux"),
                    aux_words(format, in_features, rows, has_bias),
                ),
            }
        })
        .collect()
}

/// Scales, bias, multipliers.
fn aux_words(format: WeightFormat, in_features: u32, rows: u32, has_bias: bool) -> u64 {
    let rows = u64::from(rows);
    let scales = match format {
        WeightFormat::F32 | WeightFormat::F16 => 0,
        WeightFormat::Int { .. } => rows,
    };
    scales + u64::from(has_bias) * rows + rows * u64::from(format.multiplier_words(in_features))
}

fn vector(shared: &mut SharedBuffers, tensors: Vec<String>, len_each: u32) -> NormWeights {
    let len = len_each * tensors.len() as u32;
    NormWeights {
        buffer: shared.add(tensors[0].clone(), u64::from(len)),
        tensors,
        len,
    }
}
