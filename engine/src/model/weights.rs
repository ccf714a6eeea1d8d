//! Which tensor of a checkpoint goes where: buffers for the tensors that `checkpoint/names.rs` lists. Each family puts its own
//! together, in its file.

use super::{llama, opt};
use crate::checkpoint::{
    ActivationFormat, Architecture, HEAD, LinearFormat, LinearGroup, ModelConfig, NormShape,
};
use crate::ops::{EmbeddingTable, Input, Linear, Projection, RowRange, StaticInput, WeightFormat};
use crate::plan::{BufferId, SharedBuffers};
use crate::tensor::Bits;
use plateau_shaders::linear::norm_input::TILE;
use std::ops::Range;

/// How one linear is stored and fed.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    pub format: WeightFormat,
    pub input: Input,
}

impl LinearSpec {
    /// Of a linear of a quantized checkpoint. `input` is there where its activations are static; without it, for a plan that
    /// counts memory, they are taken for dynamic ones.
    pub fn stored(format: LinearFormat, input: Option<StaticInput>) -> Self {
        let bits = match format.activations {
            ActivationFormat::Float => {
                return Self {
                    format: WeightFormat::F32,
                    input: Input::Float,
                };
            }
            ActivationFormat::Dynamic(bits) | ActivationFormat::Static(bits) => bits,
        };
        Self {
            format: WeightFormat::Int {
                bits: format.weight_bits.on_device(),
                group_size: format.group_size,
            },
            input: input.map_or(Input::Dynamic(bits), Input::Static),
        }
    }
}

/// What decides the buffers besides the model's shape.
pub struct WeightsConfig<'a> {
    /// Of each decoder linear, by its name in the checkpoint.
    pub linear: &'a dyn Fn(&str) -> LinearSpec,
    /// Of the embedding and the head: `F32`, `F16` or INT8 per row.
    pub table: WeightFormat,
    /// The largest buffer that can be bound, in bytes; larger weights are split by rows.
    pub max_buffer_bytes: u64,
    /// The tokens whose keys and values the checkpoint has; none, mostly.
    pub prefix_tokens: &'a [u32],
    /// Whether the decoder's output for that token, a single one, is stored too.
    pub hidden_prefix: bool,
}

impl WeightsConfig<'_> {
    /// Of the linears that are float in every mode.
    fn float(&self) -> WeightFormat {
        match self.table {
            WeightFormat::F32 => WeightFormat::F32,
            WeightFormat::F16 | WeightFormat::Int { .. } => WeightFormat::F16,
        }
    }
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

/// Rows of a linear that come from one linear of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub rows: u32,
}

/// A linear of the plan with its tensors.
#[derive(Clone, Debug)]
pub struct LinearWeights {
    pub linear: Linear,
    /// Columns of the tensors in the checkpoint's float form.
    pub in_features: u32,
    /// One after another, the linear's rows.
    pub sources: Vec<Source>,
}

/// A part of a norm's vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum NormPart {
    /// A tensor of the checkpoint.
    Tensor(String),
    /// What stands for a tensor that the norm does not have: 1 for a weight, 0 for a bias.
    Constant(f32),
}

/// Vectors that are used as they are: a norm's weight; weight and bias; the weights of q_norm and k_norm.
#[derive(Clone, Debug)]
pub struct NormWeights {
    pub buffer: BufferId,
    /// One after another, of `len` each.
    pub parts: Vec<NormPart>,
    pub len: u32,
}

/// The embedding, the head or the positions as a table of rows.
#[derive(Clone, Debug)]
pub struct TableWeights {
    pub table: EmbeddingTable,
    /// Without `.weight`.
    pub name: String,
}

/// What lies between embedding and head, by family.
#[derive(Clone, Debug)]
pub enum Decoder {
    Llama(llama::Weights),
    Opt(opt::Weights),
}

/// Every weight of a part of the model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Of the embedding, and of a head that is tied to it.
    pub embed_tokens: Option<TableWeights>,
    pub decoder: Decoder,
    /// Of a part with a head.
    pub lm_head: Option<Projection>,
    tables: Vec<TableWeights>,
    linears: Vec<LinearWeights>,
    norms: Vec<NormWeights>,
}

impl Weights {
    pub(super) fn declare(
        config: &ModelConfig,
        part: &Part,
        weights: &WeightsConfig<'_>,
        shared: &mut SharedBuffers,
    ) -> Self {
        let mut buffers = WeightBuffers {
            weights,
            shared,
            tables: Vec::new(),
            linears: Vec::new(),
            norms: Vec::new(),
        };
        let tied = config.tie_word_embeddings;
        let shape = [config.vocab_size, config.embedding_size()];
        let embed_tokens = (part.embedding || part.head && tied)
            .then(|| buffers.table(config.tables()[0], weights.table, shape));
        let decoder = match &config.architecture {
            Architecture::Llama(llama) => {
                Decoder::Llama(llama::Weights::declare(config, *llama, part, &mut buffers))
            }
            Architecture::Opt(opt) => {
                Decoder::Opt(opt::Weights::declare(config, *opt, part, &mut buffers))
            }
        };
        let own = (part.head && !tied).then(|| buffers.table(HEAD, weights.table, shape));
        let head_table = own.as_ref().or(embed_tokens.as_ref());
        let lm_head = part.head.then(|| {
            let table = head_table.expect("a tied head has the embedding's table");
            declare_head(weights.table, table)
        });
        let WeightBuffers {
            tables,
            linears,
            norms,
            ..
        } = buffers;
        Self {
            embed_tokens,
            decoder,
            lm_head,
            tables,
            linears,
            norms,
        }
    }

    /// The decoder's linears with their tensors.
    pub fn linears(&self) -> impl Iterator<Item = &LinearWeights> {
        self.linears.iter()
    }

    /// Bits that the decoder's linears take on the device for each of their weights: extra channels, scales and multipliers among them.
    pub fn bits_per_weight(&self) -> f64 {
        let (mut bits, mut weights) = (0.0, 0.0);
        for LinearWeights {
            linear,
            in_features,
            ..
        } in &self.linears
        {
            let (inputs, outputs) = (linear.in_features, linear.out_features);
            let words = u64::from(outputs) * u64::from(linear.format.row_words(inputs))
                + aux_words(linear.format, inputs, outputs, linear.has_bias);
            bits += 32.0 * words as f64;
            weights += f64::from(*in_features) * f64::from(outputs);
        }
        bits / weights
    }

    /// The vectors that are used as they are.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeights> {
        self.norms.iter()
    }

    /// The embedding, the head where it is another tensor, and the table of positions where there is one.
    pub fn tables(&self) -> impl Iterator<Item = &TableWeights> {
        self.tables.iter()
    }

    pub(super) fn parameters(&self) -> u64 {
        let linears = self.linears.iter().map(|l| {
            u64::from(l.linear.out_features)
                * (u64::from(l.in_features) + u64::from(l.linear.has_bias))
        });
        let norms = self.norms.iter().map(|norm| {
            let tensors = norm.parts.iter();
            let tensors = tensors.filter(|part| matches!(part, NormPart::Tensor(_)));
            tensors.count() as u64 * u64::from(norm.len)
        });
        let tables = self
            .tables
            .iter()
            .map(|TableWeights { table, .. }| u64::from(table.vocab) * u64::from(table.hidden));
        linears.chain(norms).chain(tables).sum()
    }
}

/// The head over the rows of `table`.
fn declare_head(format: WeightFormat, TableWeights { table, .. }: &TableWeights) -> Projection {
    Projection {
        in_features: table.hidden,
        out_features: table.vocab,
        linears: vec![Linear {
            label: "lm_head".to_owned(),
            in_features: table.hidden,
            out_features: table.vocab,
            first_out: 0,
            format,
            input: match format {
                WeightFormat::F32 | WeightFormat::F16 => Input::Float,
                WeightFormat::Int { .. } => Input::Dynamic(Bits::Int8),
            },
            static_buffers: None,
            has_bias: false,
            ranges: table.ranges.clone(),
        }],
    }
}

/// Buffers for a family's weights, each with where it is filled from.
pub(super) struct WeightBuffers<'a> {
    weights: &'a WeightsConfig<'a>,
    shared: &'a mut SharedBuffers,
    tables: Vec<TableWeights>,
    linears: Vec<LinearWeights>,
    norms: Vec<NormWeights>,
}

impl WeightBuffers<'_> {
    /// Linears that share an input; neighbours with the same format and input become one.
    pub(super) fn projection(&mut self, group: LinearGroup) -> Projection {
        self.declare(group, |input| input)
    }

    /// As `projection`, for linears whose input is what attention makes.
    pub(super) fn projection_after_attention(
        &mut self,
        group: LinearGroup,
        config: &ModelConfig,
    ) -> Projection {
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        self.declare(group, |input| match input {
            Input::Static(input) => Input::Static(input.after_tiles(heads, head_dim)),
            Input::Float | Input::Dynamic(_) => input,
        })
    }

    /// As `projection`, for linears whose input is the product of gate and up.
    pub(super) fn projection_after_gate(&mut self, group: LinearGroup) -> Projection {
        let tiles = group.in_features / TILE;
        let whole = group.in_features.is_multiple_of(TILE);
        self.declare(group, |input| match input {
            Input::Static(input) if whole => Input::Static(input.after_tiles(tiles, TILE)),
            Input::Static(_) | Input::Float | Input::Dynamic(_) => input,
        })
    }

    fn declare(&mut self, group: LinearGroup, input: impl Fn(Input) -> Input) -> Projection {
        let has_bias = group.linears.iter().any(|linear| linear.bias);
        let parts = group.linears.into_iter().map(|linear| Source {
            name: linear.name,
            rows: linear.out_features,
        });
        let mut sources = Vec::new();
        let projection = declare_projection(
            self.weights,
            self.shared,
            group.in_features,
            has_bias,
            parts.collect(),
            input,
            &mut sources,
        );
        let linears = projection.linears.iter().cloned().zip(sources);
        self.linears
            .extend(linears.map(|(linear, sources)| LinearWeights {
                linear,
                in_features: group.in_features,
                sources,
            }));
        projection
    }

    /// A linear `[out_features, in_features]` without bias that is float in every mode.
    pub(super) fn float_projection(
        &mut self,
        (name, [out_features, in_features]): (&str, [u32; 2]),
    ) -> Projection {
        let format = self.weights.float();
        let linear = Linear {
            label: name.to_owned(),
            in_features,
            out_features,
            first_out: 0,
            format,
            input: Input::Float,
            static_buffers: None,
            has_bias: false,
            ranges: row_ranges(
                self.shared,
                name,
                format,
                in_features,
                out_features,
                false,
                self.weights.max_buffer_bytes,
            ),
        };
        self.linears.push(LinearWeights {
            linear: linear.clone(),
            in_features,
            sources: vec![Source {
                name: name.to_owned(),
                rows: out_features,
            }],
        });
        Projection {
            in_features,
            out_features,
            linears: vec![linear],
        }
    }

    /// A table of `[rows, columns]`.
    pub(super) fn table(
        &mut self,
        name: &str,
        format: WeightFormat,
        [rows, columns]: [u32; 2],
    ) -> TableWeights {
        let table = TableWeights {
            table: EmbeddingTable {
                hidden: columns,
                vocab: rows,
                format,
                ranges: row_ranges(
                    self.shared,
                    name,
                    format,
                    columns,
                    rows,
                    false,
                    self.weights.max_buffer_bytes,
                ),
            },
            name: name.to_owned(),
        };
        self.tables.push(table.clone());
        table
    }

    /// The weight of an RMS norm, or of several side by side.
    pub(super) fn rms_norm(&mut self, norms: &[NormShape]) -> BufferId {
        let parts = norms
            .iter()
            .map(|norm| NormPart::Tensor(format!("{}.weight", norm.name)));
        self.norm(&norms[0], parts.collect())
    }

    /// Weight and bias of a layer norm, [2, len].
    pub(super) fn layer_norm(&mut self, norm: &NormShape) -> BufferId {
        let part = |there: bool, suffix: &str, missing: f32| match there {
            true => NormPart::Tensor(format!("{}.{suffix}", norm.name)),
            false => NormPart::Constant(missing),
        };
        let parts = vec![
            part(norm.weight, "weight", 1.0),
            part(norm.bias, "bias", 0.0),
        ];
        self.norm(norm, parts)
    }

    fn norm(&mut self, shape: &NormShape, parts: Vec<NormPart>) -> BufferId {
        let words = u64::from(shape.len) * parts.len() as u64;
        let buffer = self.shared.add(shape.name.clone(), words);
        self.norms.push(NormWeights {
            buffer,
            parts,
            len: shape.len,
        });
        buffer
    }
}

/// Neighbours with the same format and input become one linear.
fn declare_projection(
    weights: &WeightsConfig<'_>,
    shared: &mut SharedBuffers,
    in_features: u32,
    has_bias: bool,
    parts: Vec<Source>,
    input: impl Fn(Input) -> Input,
    sources: &mut Vec<Vec<Source>>,
) -> Projection {
    let out_features = parts.iter().map(|part| part.rows).sum();
    let mut groups: Vec<(LinearSpec, Vec<Source>)> = Vec::new();
    for part in parts {
        let mut spec = (weights.linear)(&part.name);
        spec.input = input(spec.input);
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
