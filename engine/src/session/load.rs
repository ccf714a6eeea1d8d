//! Weights from a checkpoint to device memory, a chunk of rows at a time.

use super::{Session, SessionError};
use crate::Error;
use crate::checkpoint::{
    ActivationFormat, Checkpoint, FLATTEN_PADDING, LinearFormat, LoadError, ModelConfig,
};
use crate::exec::{DISCRETE, Executor};
use crate::model::{
    Capacity, LinearSpec, LinearWeights, Model, NormPart, Part, Source, StepShape, StoredPrefix,
    TableWeights, WeightsConfig, planned_pages,
};
use crate::ops::{Input, RowRange, StaticInput, WeightFormat};
use crate::plan::{BufferDesc, Features};
use crate::sampler::SamplerConfig;
use crate::tensor::{Bits, Granularity, KvType, Quant};
use plateau_shaders::attention::max_tiles;
use plateau_shaders::linear::integer::MAX_IN_FEATURES;
use plateau_shaders::linear::norm_input::TILE;
use plateau_shaders::pack;
use plateau_shaders::quantize::flatten_quantize::extra;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

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
    /// Rows of one step; `None` is 2048 on a GPU with memory of its own, halved down to 512 while the model would not fit, and 512 elsewhere.
    pub max_rows: Option<u32>,
    /// Weights larger than this are split by rows; `None` is what the device can bind.
    pub max_weight_bytes: Option<u64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            quant: None,
            weight_scale: Granularity::PerChannel,
            kv_type: KvType::F16,
            context_size: None,
            max_sequences: 1,
            max_rows: None,
            max_weight_bytes: None,
        }
    }
}

/// The context where neither the user nor the model asks for less.
const DEFAULT_CONTEXT: u32 = 4096;

/// Rows of one step where the options leave them open: the more, the faster is a long prompt, but a dispatch of a slow GPU may not take
/// seconds, and activations grow with them.
const ROWS: u32 = 512;
const DISCRETE_ROWS: u32 = 2048;

/// Host memory for weights on their way: rows are read, converted and uploaded in chunks of about this size.
const CHUNK_BYTES: usize = 8 << 20;

/// Device memory by use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeeded {
    pub weights: u64,
    pub kv_cache: u64,
    /// Activations of the largest prefill and the largest decode step, and small tables.
    pub scratch: u64,
}

impl MemoryNeeded {
    pub const fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.scratch
    }

    fn of(model: &Model) -> Self {
        let capacity = &model.capacity;
        let prefill = StepShape::Rows {
            rows: capacity.max_rows,
            tiles: max_tiles(capacity.max_rows, 1),
            logits: 1,
        };
        let decode = StepShape::Decode {
            rows: capacity.max_sequences,
            pages: planned_pages(capacity.table_stride()),
            sampling: super::sampling(&SamplerConfig::GREEDY),
        };
        let scratch = |shape| model.step(&shape).plan.scratch_bytes();
        let small = model.shared.bytes() - model.weight_bytes - model.kv_bytes;
        Self {
            weights: model.weight_bytes,
            kv_cache: model.kv_bytes,
            scratch: small + scratch(prefill) + scratch(decode),
        }
    }
}

/// Bytes of weights on the device so far, of how many.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    pub done: u64,
    pub total: u64,
}

/// Where weights come from.
enum WeightSource<'a> {
    Checkpoint(&'a Checkpoint),
    /// Seeded noise of a plausible size: activations neither vanish nor overflow.
    Random,
}

/// What [`Session::load`] would take, from shapes alone: on that device, or on one whose buffers have no limit, with the fewest rows that
/// the options leave open.
pub fn memory_needed(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    executor: Option<&Executor>,
) -> Result<MemoryNeeded, Error> {
    let statics = BTreeMap::new();
    let config = &checkpoint.config;
    let model = declare(config, Some(checkpoint), options, &statics, 0, executor)?;
    Ok(MemoryNeeded::of(&model))
}

pub(super) async fn load(
    checkpoint: &Checkpoint,
    executor: Executor,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Session, Error> {
    let statics = read_static_inputs(checkpoint).await?;
    let model = declare(
        &checkpoint.config,
        Some(checkpoint),
        options,
        &statics,
        0,
        Some(&executor),
    )?;
    fill(
        model,
        executor,
        &WeightSource::Checkpoint(checkpoint),
        options,
        progress,
    )
    .await
}

/// What a synthetic model has beyond `--quant`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyntheticFormat {
    /// Features of a group of INT4 weights; 0 for none.
    pub group_size: u32,
    /// Static inputs, with so many extra channels as shares of the channels: of every linear, and of an MLP's second one. `None` is a scale for
    /// each token.
    pub added: Option<[f32; 2]>,
}

pub(super) async fn synthetic(
    config: &ModelConfig,
    executor: Executor,
    options: &LoadOptions,
    format: &SyntheticFormat,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Session, Error> {
    let statics = match (
        format.added,
        rounded(options.quant.unwrap_or(Quant::F16)).input,
    ) {
        (Some(added), Input::Dynamic(bits)) => synthetic_inputs(config, bits, added),
        _ => BTreeMap::new(),
    };
    let model = declare(
        config,
        None,
        options,
        &statics,
        format.group_size,
        Some(&executor),
    )?;
    fill(model, executor, &WeightSource::Random, options, progress).await
}

/// Inputs as a recipe would find them for values of about 1: large channels here and there, the extra ones of a tile in whole words.
fn synthetic_inputs(
    config: &ModelConfig,
    bits: Bits,
    added: [f32; 2],
) -> BTreeMap<String, StaticInput> {
    const THRESHOLD: f32 = 4.0;
    let mut statics = BTreeMap::new();
    for layer in 0..config.num_hidden_layers {
        let groups = config.layer(layer).groups.into_iter().enumerate();
        for (place, group) in groups {
            // Of q, k, v; o; gate, up; down.
            let (tile, share) = match place {
                1 => (config.head_dim, added[0]),
                3 => (TILE, added[1]),
                _ => (TILE, added[0]),
            };
            let features = group.in_features;
            let is_large = |j: u32| {
                let count = |j: u32| (f64::from(j) * f64::from(share)) as u32;
                count(j + 1) > count(j)
            };
            let mut map: Vec<u32> = (0..features).map(|j| 1 + u32::from(is_large(j))).collect();
            for first in (0..features).step_by(tile as usize) {
                let channels = first..(first + tile).min(features);
                map.extend(channels.filter(|&j| is_large(j)).map(|j| extra(j, 1)));
                map.resize(map.len().next_multiple_of(4), FLATTEN_PADDING);
            }
            let input = StaticInput {
                bits,
                scale: THRESHOLD / bits.q_max() as f32,
                flat_features: map.len() as u32,
                map: map.into(),
            };
            let names = group.linears.into_iter().map(|linear| linear.name);
            statics.extend(names.map(|name| (name, input.clone())));
        }
    }
    statics
}

/// What of a device decides about buffers and kernels.
#[derive(Clone, Copy)]
struct DeviceTraits {
    max_buffer_bytes: u64,
    features: Features,
}

impl DeviceTraits {
    fn of(executor: &Executor) -> Self {
        Self {
            max_buffer_bytes: executor.max_buffer_bytes(),
            features: executor.features(),
        }
    }
}

/// Rows of one step on an adapter of that kind.
fn rows_for(kind: Option<&str>) -> u32 {
    match kind {
        Some(DISCRETE) => DISCRETE_ROWS,
        Some(_) | None => ROWS,
    }
}

/// Whether a device has the memory, and buffers large enough for the activations.
fn fits(model: &Model, executor: &Executor) -> bool {
    let rows = model.capacity.max_rows;
    let shape = StepShape::Rows {
        rows,
        tiles: max_tiles(rows, 1),
        logits: 1,
    };
    let plan = model.step(&shape).plan;
    let largest = plan.scratch.iter().map(BufferDesc::bytes).max();
    let available = executor.available_memory().unwrap_or(u64::MAX);
    MemoryNeeded::of(model).total() <= available
        && largest.unwrap_or(0) <= executor.max_buffer_bytes()
}

/// The model's graph under the options, with no weight read.
fn declare(
    config: &ModelConfig,
    checkpoint: Option<&Checkpoint>,
    options: &LoadOptions,
    statics: &BTreeMap<String, StaticInput>,
    group_size: u32,
    executor: Option<&Executor>,
) -> Result<Model, Error> {
    let device = executor.map_or(
        DeviceTraits {
            max_buffer_bytes: u64::MAX,
            features: Features::default(),
        },
        DeviceTraits::of,
    );
    let declared = |rows| {
        declare_for(
            config, checkpoint, options, statics, group_size, device, rows,
        )
    };
    let (Some(executor), None) = (executor, options.max_rows) else {
        return declared(options.max_rows.unwrap_or(ROWS));
    };
    let most = rows_for(executor.adapter().map(|adapter| adapter.kind));
    longest_steps(most, declared, |model| fits(model, executor))
}

/// What `declared` makes of `most` rows in a step, or of the half as often as it does not fit, down to [`ROWS`].
fn longest_steps<T>(
    most: u32,
    declared: impl Fn(u32) -> Result<T, Error>,
    fits: impl Fn(&T) -> bool,
) -> Result<T, Error> {
    let mut rows = most;
    loop {
        let model = declared(rows)?;
        if rows <= ROWS || fits(&model) {
            return Ok(model);
        }
        rows /= 2;
    }
}

/// As [`declare`], with so many rows in a step.
fn declare_for(
    config: &ModelConfig,
    checkpoint: Option<&Checkpoint>,
    options: &LoadOptions,
    statics: &BTreeMap<String, StaticInput>,
    group_size: u32,
    device: DeviceTraits,
    max_rows: u32,
) -> Result<Model, Error> {
    let limit = config.max_position_embeddings;
    let context_size = options.context_size.unwrap_or(limit.min(DEFAULT_CONTEXT));
    if context_size == 0 || context_size > limit {
        return Err(SessionError::ContextSize {
            found: context_size,
            limit,
        }
        .into());
    }
    let capacity = Capacity {
        context_size,
        max_sequences: options.max_sequences,
        max_rows: max_rows.min(context_size.saturating_mul(options.max_sequences)),
        kv_type: options.kv_type,
    };
    let quantization = checkpoint.and_then(|checkpoint| checkpoint.quantization.as_ref());
    if let (Some(quantization), Some(_)) = (quantization, options.quant) {
        return Err(SessionError::AlreadyQuantized {
            recipe: quantization.recipe.clone(),
        }
        .into());
    }
    let quant = options.quant.unwrap_or(Quant::F16);
    let int8 = WeightFormat::Int {
        bits: Bits::Int8,
        group_size: 0,
    };
    let table = match (quantization, quant) {
        (None, Quant::F32) => WeightFormat::F32,
        (None, Quant::F16) => WeightFormat::F16,
        (None, Quant::W8A8 | Quant::W4A8 | Quant::W4A4) | (Some(_), _) => int8,
    };
    let linear = |name: &str| match quantization {
        None => {
            let mut spec = rounded(quant);
            if let WeightFormat::Int {
                bits: Bits::Int4,
                group_size: size,
            } = &mut spec.format
            {
                *size = group_size;
            }
            if let Some(input) = statics.get(name) {
                spec.input = Input::Static(input.clone());
            }
            spec
        }
        Some(quantization) => {
            LinearSpec::stored(quantization.format(name), statics.get(name).cloned())
        }
    };
    let max_buffer_bytes = options
        .max_weight_bytes
        .unwrap_or(u64::MAX)
        .min(device.max_buffer_bytes);
    let model = Model::new(
        config.clone(),
        Part::whole(config),
        capacity,
        device.features,
        &WeightsConfig {
            linear: &linear,
            table,
            max_buffer_bytes,
            prefix_tokens: quantization
                .and_then(|quantization| quantization.kv_prefix.as_ref())
                .map_or(&[], |prefix| &prefix.tokens),
            hidden_prefix: checkpoint.is_some_and(|checkpoint| {
                let name = checkpoint.config.hidden_prefix_tensor();
                checkpoint.tensors.contains_key(name)
            }),
        },
    );
    let integer = |l: &&LinearWeights| matches!(l.linear.format, WeightFormat::Int { .. });
    let widest = model
        .weights
        .linears()
        .filter(integer)
        .max_by_key(|l| l.linear.in_features);
    match widest {
        Some(l) if l.linear.in_features > MAX_IN_FEATURES => Err(LoadError::Invalid {
            file: "config.json".to_owned(),
            what: format!("input features of {}", l.linear.label),
            found: l.linear.in_features.to_string(),
            expected: format!("at most {MAX_IN_FEATURES}, so that integer sums stay in 32 bits"),
        }
        .into()),
        _ => Ok(model),
    }
}

/// How `--quant` stores a linear.
fn rounded(quant: Quant) -> LinearSpec {
    let int = |bits| WeightFormat::Int {
        bits,
        group_size: 0,
    };
    match quant {
        Quant::F32 => LinearSpec {
            format: WeightFormat::F32,
            input: Input::Float,
        },
        Quant::F16 => LinearSpec {
            format: WeightFormat::F16,
            input: Input::Float,
        },
        Quant::W8A8 => LinearSpec {
            format: int(Bits::Int8),
            input: Input::Dynamic(Bits::Int8),
        },
        Quant::W4A8 => LinearSpec {
            format: int(Bits::Int4),
            input: Input::Dynamic(Bits::Int8),
        },
        Quant::W4A4 => LinearSpec {
            format: int(Bits::Int4),
            input: Input::Dynamic(Bits::Int4),
        },
    }
}

/// The scales and flatten maps of the linears whose activations have a static scale.
async fn read_static_inputs(
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, StaticInput>, LoadError> {
    let mut statics = BTreeMap::new();
    let Some(quantization) = &checkpoint.quantization else {
        return Ok(statics);
    };
    for linear in checkpoint.config.linears() {
        let format = quantization.format(&linear.name);
        if let ActivationFormat::Static(bits) = format.activations {
            let scale = checkpoint.read_input_scale(&linear.name).await?;
            let map: Arc<[u32]> = checkpoint
                .read_flatten_map(&linear.name, linear.in_features)
                .await?
                .into();
            let flat_features = map.len() as u32;
            statics.insert(
                linear.name,
                StaticInput {
                    bits,
                    scale,
                    map,
                    flat_features,
                },
            );
        }
    }
    Ok(statics)
}

/// Allocates every buffer and fills the weights.
async fn fill(
    model: Model,
    mut executor: Executor,
    source: &WeightSource<'_>,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Session, Error> {
    let memory = MemoryNeeded::of(&model);
    if let Some(available) = executor.available_memory() {
        if memory.total() > available {
            let name = executor.name().to_owned();
            return Err(SessionError::DoesNotFit {
                name,
                needed: memory.total(),
                available,
            }
            .into());
        }
    }
    for desc in &model.shared.descs {
        executor.allocate(desc).await?;
    }
    let mut loader = Loader {
        executor,
        source,
        options,
        done: 0,
        total: model.weight_bytes,
        progress,
    };
    for linear in model.weights.linears() {
        loader.linear(linear).await?;
    }
    for table in model.weights.tables() {
        loader.table(table).await?;
    }
    for norm in model.weights.norms() {
        let len = norm.len as usize;
        let mut values = Vec::new();
        for part in &norm.parts {
            values.extend(match (part, source) {
                (NormPart::Constant(value), _) => vec![*value; len],
                (NormPart::Tensor(name), WeightSource::Checkpoint(checkpoint)) => {
                    checkpoint.read_f32(name, 0, len).await?
                }
                (NormPart::Tensor(name), WeightSource::Random) => {
                    let value = if name.ends_with(".bias") { 0.0 } else { 1.0 };
                    vec![value; len]
                }
            });
        }
        loader
            .executor
            .write(norm.buffer, 0, bytemuck::cast_slice(&values))?;
    }
    let mut executor = loader.executor;
    if let (Some(prefix), WeightSource::Checkpoint(checkpoint)) = (&model.prefix, source) {
        write_prefix(&mut executor, checkpoint, &model, prefix).await?;
    }
    let rope_table = model.rope_table();
    if !rope_table.is_empty() {
        executor.write(model.step.rope_table, 0, bytemuck::cast_slice(&rope_table))?;
    }
    executor.finish().await?;
    Ok(Session::new(model, executor, memory))
}

/// The stored keys and values, as rows of both.
async fn write_prefix(
    executor: &mut Executor,
    checkpoint: &Checkpoint,
    model: &Model,
    prefix: &StoredPrefix,
) -> Result<(), Error> {
    let config = &model.config;
    let features = (config.num_key_value_heads * config.head_dim) as usize;
    let len = prefix.tokens.len() * features;
    for (layer, buffer) in model.part.layers.clone().zip(&prefix.layers) {
        let [keys, values] = config.kv_prefix_tensors(layer);
        let keys = checkpoint.read_f32(&keys, 0, len).await?;
        let values = checkpoint.read_f32(&values, 0, len).await?;
        let rows = keys
            .chunks_exact(features)
            .zip(values.chunks_exact(features));
        let rows: Vec<f32> = rows.flat_map(|(k, v)| [k, v].concat()).collect();
        executor.write(*buffer, 0, bytemuck::cast_slice(&rows))?;
    }
    if let Some(buffer) = prefix.hidden {
        let name = config.hidden_prefix_tensor();
        let row = checkpoint
            .read_f32(name, 0, config.hidden_size as usize)
            .await?;
        executor.write(buffer, 0, bytemuck::cast_slice(&row))?;
    }
    Ok(())
}

/// Rows of one tensor.
struct Segment<'a> {
    source: &'a Source,
    rows: Range<usize>,
}

/// Packed rows, and what belongs to them in the aux buffer.
#[derive(Default)]
struct Packed {
    words: Vec<u32>,
    scales: Vec<f32>,
    multipliers: Vec<u32>,
}

impl Packed {
    fn join(rows: Vec<Packed>) -> Self {
        let mut all = Self::default();
        for row in rows {
            all.words.extend(row.words);
            all.scales.extend(row.scales);
            all.multipliers.extend(row.multipliers);
        }
        all
    }
}

struct Loader<'a> {
    executor: Executor,
    source: &'a WeightSource<'a>,
    options: &'a LoadOptions,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Loader<'_> {
    async fn linear(&mut self, weights: &LinearWeights) -> Result<(), Error> {
        let linear = &weights.linear;
        if let (Input::Static(input), Some((map, scale))) = (&linear.input, linear.static_buffers) {
            self.executor.write(map, 0, &input.map)?;
            self.executor.write(scale, 0, &[input.scale.to_bits()])?;
        }
        let per_tensor = match (self.source, self.options.weight_scale, linear.format) {
            (
                WeightSource::Checkpoint(c),
                Granularity::PerTensor,
                WeightFormat::Int { bits, .. },
            ) if c.quantization.is_none() => Some(tensor_scales(c, weights, bits).await?),
            _ => None,
        };
        for range in &linear.ranges {
            self.rows(
                range,
                linear.format,
                linear.in_features,
                weights.in_features,
                &weights.sources,
                linear.has_bias,
                per_tensor.as_deref(),
            )
            .await?;
        }
        Ok(())
    }

    async fn table(&mut self, weights: &TableWeights) -> Result<(), Error> {
        let table = &weights.table;
        let sources = [Source {
            name: weights.name.clone(),
            rows: table.vocab,
        }];
        for range in &table.ranges {
            self.rows(
                range,
                table.format,
                table.hidden,
                table.hidden,
                &sources,
                false,
                None,
            )
            .await?;
        }
        Ok(())
    }

    /// One range of rows: weights chunk by chunk, then scales, bias and multipliers.
    async fn rows(
        &mut self,
        range: &RowRange,
        format: WeightFormat,
        stored_features: u32,
        in_features: u32,
        sources: &[Source],
        has_bias: bool,
        tensor_scales: Option<&[f32]>,
    ) -> Result<(), Error> {
        let row_words = format.row_words(stored_features) as usize;
        let chunk = (CHUNK_BYTES / 4 / row_words.max(in_features as usize)).max(1);
        let (first, end) = (
            range.first_row as usize,
            (range.first_row + range.rows) as usize,
        );
        let mut scales = Vec::new();
        let mut multipliers = Vec::new();
        let mut bias = Vec::new();
        for segment in segments(sources, first..end, chunk) {
            let packed = self
                .pack(
                    &segment,
                    format,
                    stored_features,
                    in_features as usize,
                    tensor_scales,
                    sources,
                )
                .await?;
            let row = segment_start(sources, &segment) - first;
            self.executor
                .write(range.w, (row * row_words) as u64, &packed.words)?;
            if has_bias {
                bias.extend(self.bias(&segment).await?);
            }
            scales.extend(packed.scales);
            multipliers.extend(packed.multipliers);
            self.done += 4 * packed.words.len() as u64;
            (self.progress)(LoadProgress {
                done: self.done,
                total: self.total,
            });
        }
        let mut aux: Vec<u32> = scales
            .iter()
            .chain(&bias)
            .map(|value: &f32| value.to_bits())
            .collect();
        aux.extend(multipliers);
        if !aux.is_empty() {
            self.executor.write(range.aux, 0, &aux)?;
        }
        Ok(())
    }

    async fn bias(&self, segment: &Segment<'_>) -> Result<Vec<f32>, LoadError> {
        match self.source {
            WeightSource::Checkpoint(checkpoint) => {
                let name = format!("{}.bias", segment.source.name);
                checkpoint
                    .read_f32(&name, segment.rows.start as u64, segment.rows.len())
                    .await
            }
            WeightSource::Random => Ok(vec![0.0; segment.rows.len()]),
        }
    }

    async fn pack(
        &self,
        segment: &Segment<'_>,
        format: WeightFormat,
        stored_features: u32,
        in_features: usize,
        tensor_scales: Option<&[f32]>,
        sources: &[Source],
    ) -> Result<Packed, LoadError> {
        let (name, rows) = (&segment.source.name, segment.rows.len());
        let row_words = format.row_words(stored_features) as usize;
        let first = segment.rows.start as u64;
        let checkpoint = match self.source {
            WeightSource::Checkpoint(checkpoint) => checkpoint,
            WeightSource::Random => {
                return Ok(random_rows(
                    format,
                    rows,
                    row_words,
                    in_features,
                    stored_features,
                ));
            }
        };
        match checkpoint.stored_format(name) {
            Some(stored) => {
                let packed = read_quantized(checkpoint, segment, stored, stored_features).await?;
                Ok(match format {
                    WeightFormat::Int { .. } => packed,
                    WeightFormat::F32 | WeightFormat::F16 => {
                        dequantized(&packed, stored, format, in_features)
                    }
                })
            }
            None => {
                let scale = tensor_scales.map(|scales| {
                    let index = sources.iter().position(|s| s.name == *name);
                    scales[index.expect("a segment's source is one of the sources")]
                });
                let weight = format!("{name}.weight");
                let values = checkpoint
                    .read_f32(&weight, first * in_features as u64, rows * in_features)
                    .await?;
                let packed: Vec<Packed> = values
                    .par_chunks_exact(in_features)
                    .map(|row| pack_row(row, format, row_words, scale))
                    .collect();
                Ok(Packed::join(packed))
            }
        }
    }
}

/// Rows of a quantized tensor, `stored` so.
async fn read_quantized(
    checkpoint: &Checkpoint,
    segment: &Segment<'_>,
    stored: LinearFormat,
    stored_features: u32,
) -> Result<Packed, LoadError> {
    let name = &segment.source.name;
    let rows = segment.rows.clone();
    let words = checkpoint
        .read_weight(name, stored, stored_features, rows.clone())
        .await?;
    let scales = scales(checkpoint, name, segment).await?;
    let per_row = stored.multiplier_words(stored_features) as usize;
    let multipliers = match per_row {
        0 => Vec::new(),
        _ => {
            let name = format!("{name}.multipliers");
            let first = (rows.start * per_row) as u64;
            checkpoint
                .read_u32(&name, first, rows.len() * per_row)
                .await?
        }
    };
    Ok(Packed {
        words,
        scales,
        multipliers,
    })
}

/// The values of quantized rows in a float `format`.
fn dequantized(
    packed: &Packed,
    stored: LinearFormat,
    format: WeightFormat,
    in_features: usize,
) -> Packed {
    let per_row = stored.multiplier_words(in_features as u32) as usize;
    let row_words = packed.words.len() / packed.scales.len();
    let rows = packed.words.par_chunks_exact(row_words).enumerate();
    let rows = rows.map(|(row, words)| {
        let multipliers = &packed.multipliers[row * per_row..][..per_row];
        let mut values = vec![0.0; in_features];
        stored.dequantize_row(words, packed.scales[row], multipliers, &mut values);
        pack_row(
            &values,
            format,
            format.row_words(in_features as u32) as usize,
            None,
        )
    });
    Packed::join(rows.collect())
}

/// The scales of rows of a quantized tensor: one each, or the tensor's for all.
async fn scales(
    checkpoint: &Checkpoint,
    name: &str,
    segment: &Segment<'_>,
) -> Result<Vec<f32>, LoadError> {
    let name = format!("{name}.scales");
    let len = checkpoint
        .tensors
        .get(&name)
        .map_or(0, |info| info.elements()) as usize;
    let scales = checkpoint.read_scales(&name, len).await?;
    Ok(match scales[..] {
        [scale] => vec![scale; segment.rows.len()],
        _ => scales[segment.rows.clone()].to_vec(),
    })
}

/// One row in the device's layout; `scale` is that of the whole tensor, where there is one.
fn pack_row(row: &[f32], format: WeightFormat, row_words: usize, scale: Option<f32>) -> Packed {
    match format {
        WeightFormat::F32 => {
            let mut words: Vec<u32> = row.iter().map(|value| value.to_bits()).collect();
            words.resize(row_words, 0);
            Packed {
                words,
                ..Packed::default()
            }
        }
        WeightFormat::F16 => Packed {
            words: pack::pack_f16(row),
            ..Packed::default()
        },
        WeightFormat::Int {
            bits: Bits::Int8, ..
        } => {
            let (scale, words) = match scale {
                Some(scale) => (scale, pack::quantize_row_i8_with_scale(row, scale)),
                None => pack::quantize_row_i8(row),
            };
            Packed {
                words,
                scales: vec![scale],
                multipliers: Vec::new(),
            }
        }
        WeightFormat::Int {
            bits: Bits::Int4,
            group_size,
        } => {
            let (scale, words, multipliers) = match scale {
                Some(scale) => {
                    let (words, multipliers) =
                        pack::quantize_row_i4_with_scale(row, group_size as usize, scale);
                    (scale, words, multipliers)
                }
                None => pack::quantize_row_i4(row, group_size as usize),
            };
            Packed {
                words,
                scales: vec![scale],
                multipliers,
            }
        }
    }
}

/// One scale for each source tensor: its absmax over the largest integer.
async fn tensor_scales(
    checkpoint: &Checkpoint,
    weights: &LinearWeights,
    bits: Bits,
) -> Result<Vec<f32>, LoadError> {
    let columns = weights.in_features as usize;
    let chunk = (CHUNK_BYTES / 4 / columns).max(1);
    let mut scales = Vec::new();
    for source in &weights.sources {
        let mut absmax = 0f32;
        for segment in segments(std::slice::from_ref(source), 0..source.rows as usize, chunk) {
            let first = (segment.rows.start * columns) as u64;
            let name = format!("{}.weight", source.name);
            let values = checkpoint
                .read_f32(&name, first, segment.rows.len() * columns)
                .await?;
            absmax = absmax.max(pack::absmax(&values));
        }
        scales.push(match bits {
            Bits::Int8 => pack::scale_i8(absmax),
            Bits::Int4 => pack::scale_i4(absmax, 0),
        });
    }
    Ok(scales)
}

/// Cuts `rows` of the joined `sources` into pieces of at most `chunk` rows, each in one source.
fn segments(sources: &[Source], rows: Range<usize>, chunk: usize) -> Vec<Segment<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for source in sources {
        let end = start + source.rows as usize;
        let (mut row, last) = (rows.start.max(start), rows.end.min(end));
        while row < last {
            let next = (row + chunk).min(last);
            pieces.push(Segment {
                source,
                rows: row - start..next - start,
            });
            row = next;
        }
        start = end;
    }
    pieces
}

/// The row of the joined sources where a segment starts.
fn segment_start(sources: &[Source], segment: &Segment<'_>) -> usize {
    let before: usize = sources
        .iter()
        .take_while(|source| source.name != segment.source.name)
        .map(|s| s.rows as usize)
        .sum();
    before + segment.rows.start
}

/// Rows of noise in the device's layout: outputs about as large as inputs.
fn random_rows(
    format: WeightFormat,
    rows: usize,
    row_words: usize,
    in_features: usize,
    stored_features: u32,
) -> Packed {
    // Uniform in ±1 has a variance of 1/3; so many of them are summed.
    let gain = (3.0 / in_features as f32).sqrt();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    let unit = |noise: u32| (noise >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
    let len = rows * row_words;
    match format {
        WeightFormat::F32 => Packed {
            words: (0..len).map(|_| (gain * unit(noise())).to_bits()).collect(),
            ..Packed::default()
        },
        WeightFormat::F16 => {
            let row: Vec<f32> = (0..2 * len).map(|_| gain * unit(noise())).collect();
            Packed {
                words: pack::pack_f16(&row),
                ..Packed::default()
            }
        }
        WeightFormat::Int { bits, .. } => Packed {
            words: (0..len).map(|_| noise()).collect(),
            scales: vec![gain / bits.q_max() as f32; rows],
            multipliers: vec![0; rows * format.multiplier_words(stored_features) as usize],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gpu_with_memory_of_its_own_has_long_steps() {
        assert_eq!(rows_for(Some("discrete")), 2048);
        for kind in ["integrated", "virtual", "software", "other"] {
            assert_eq!(rows_for(Some(kind)), 512, "{kind}");
        }
        assert_eq!(rows_for(None), 512);
    }

    #[test]
    fn steps_are_halved_while_the_model_does_not_fit() {
        let longest = |most, limit| {
            let found = longest_steps(most, Ok, |rows| *rows <= limit);
            found.unwrap_or_else(|error| panic!("{error}"))
        };
        assert_eq!(longest(2048, 4000), 2048);
        assert_eq!(longest(2048, 2047), 1024);
        // The fewest, whatever fits: loading says what is missing.
        assert_eq!(longest(2048, 100), 512);
        assert_eq!(longest(512, 100), 512);
    }

    #[test]
    fn segments_stay_inside_their_tensor() {
        let sources: Vec<Source> = [("q", 5), ("k", 2)]
            .map(|(name, rows)| Source {
                name: name.to_owned(),
                rows,
            })
            .to_vec();
        let cut: Vec<(String, Range<usize>)> = segments(&sources, 1..7, 3)
            .into_iter()
            .map(|s| (s.source.name.clone(), s.rows))
            .collect();
        assert_eq!(
            cut,
            [
                ("q".to_owned(), 1..4),
                ("q".to_owned(), 4..5),
                ("k".to_owned(), 0..2)
            ]
        );
        assert_eq!(segment_start(&sources, &segments(&sources, 5..7, 9)[0]), 5);
    }
}
