//! The whole way, in two passes over the layers.
//!
//! 1. [`decide`]: the float model runs over the samples. Of each layer: how its channels are smoothed, threshold and parts of
//!    every input, at INT4 and at INT8, and what either would cost. Then the bits of all layers are chosen.
//! 2. [`write`]: layer by layer, the layers before it quantized, weights become integers, and the layer is run as it will run.

use super::QuantizeError;
use super::activation::{ActivationStats, StaticChoice, choose_static};
use super::bit_width::{Sensitivity, choose_by_share};
use super::calibrate::{LayerPrefix, Samples, Stage, TABLE_ELEMENTS};
use super::flatten::FlatMap;
use super::gptq::Factor;
use super::grid::{ClipSearch, Grid, GridConfig};
use super::layer::{HostLayer, Producer};
use super::linear::{FlatInput, LinearPlan, QuantizedLinear, TABLE_FORMAT, WeightError};
use super::outliers::Outliers;
use super::recipe::{Activations, BitPolicy, Recipe, Smoothing};
use super::rtn::copy_tensor;
use super::smooth::smoothing_scales;
use crate::checkpoint::{
    ActivationScale, Checkpoint, CheckpointWriter, Dtype, Fold, KvPrefix, LinearFormat,
    LinearGroup, LinearShape, ModelConfig, NewTensor, QuantizationConfig, copy_beside,
};
use crate::exec::Executor;
use crate::model::{LinearSpec, Part};
use crate::ops::{Input, WeightFormat};
use crate::tensor::Bits;
use plateau_shaders::pack;
use std::path::Path;
use std::sync::Arc;

/// Rows of a group's input that are kept for searches.
const SAMPLE_ROWS: usize = 2048;
/// Source channels whose extra channels share words.
const TILE: usize = 64;
/// Migration strengths that a search tries; no smoothing at all is another candidate.
const STRENGTHS: [f32; 7] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Progress of a quantization.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub stage: &'static str,
    pub done: u64,
    pub total: u64,
}

/// Everything that a quantization needs besides the recipe.
pub struct Source<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Sample text; `None` where the recipe needs none.
    pub samples: Option<&'a Samples>,
    /// Outliers to be put into the float model first.
    pub outliers: Option<Outliers>,
}

/// What is known of a layer after the first pass.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    pub groups: Vec<GroupPlan>,
    /// Keys and values of the stored prefix, if the recipe has one.
    pub prefix: LayerPrefix,
}

/// Linears that share an input.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub group: LinearGroup,
    /// What each produced channel is divided by; empty for nothing.
    pub smoothing: Vec<f32>,
    pub linears: Vec<LinearPlan>,
    /// Relative errors of the outputs that the choice was made by: at INT4 and at INT8.
    pub expected_error: [f64; 2],
}

/// One way to quantize a group's input and weights.
struct Candidate {
    smoothing: Vec<f32>,
    input: StaticChoice,
    /// Expected square of the error over that of the outputs.
    error: f64,
}

impl LayerPlan {
    fn linear(&self, name: &str) -> &LinearPlan {
        let linears = self.groups.iter().flat_map(|group| &group.linears);
        let found = linears.into_iter().find(|l| l.shape.name == name);
        found.expect("a plan has each linear of its layer")
    }
}

/// The first pass: how each layer will be quantized.
pub async fn decide(
    source: &Source<'_>,
    executor: &mut Executor,
    recipe: &Recipe,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<LayerPlan>, QuantizeError> {
    let config = &source.checkpoint.config;
    let Some(samples) = source.samples else {
        let plain = |layer| Ok(uncalibrated(config, recipe, layer));
        return (0..config.num_hidden_layers).map(plain).collect();
    };
    let prefix = usize::from(recipe.prefix);
    let mut hidden = embed(source.checkpoint, executor, samples, 0, false).await?;
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        progress(Progress {
            stage: "calibrating",
            done: layer.into(),
            total: config.num_hidden_layers.into(),
        });
        let mut weights = read_layer(source, layer).await?;
        let groups = config.layer_groups(layer);
        let mut stats: Vec<ActivationStats> = groups
            .iter()
            .map(|group| ActivationStats::new(group.in_features as usize))
            .collect();
        let mut stage = float_stage(executor, config, layer, samples).await?;
        stage.write_vectors(&weights)?;
        stage.write_float(&weights)?;
        let rows = samples.windows.len() * (samples.window() - prefix);
        let keep = rows.div_ceil(SAMPLE_ROWS).max(1);
        stage
            .forward(&mut hidden, &mut |tap| {
                let first_name = tap.linear.split('+').next().unwrap_or_default();
                let at = groups
                    .iter()
                    .position(|group| group.linears[0].name == first_name);
                let stats = &mut stats[at.expect("a float layer runs each group as one linear")];
                // The stored tokens are not quantized, so they do not count.
                let windows = tap.values.chunks_exact(tap.rows_per_window * tap.features);
                for (window, values) in windows.enumerate() {
                    let window = tap.first_row / tap.rows_per_window + window;
                    let first = window * (tap.rows_per_window - prefix);
                    stats.add(&values[prefix * tap.features..], first, keep);
                }
            })
            .await?;
        let layer_prefix = stage.read_prefix(prefix).await?;
        drop(stage);
        stats.iter_mut().for_each(|stats| stats.finish(rows));

        let mut decided = Vec::new();
        for (group, stats) in groups.iter().zip(&stats) {
            decided.push(candidates(config, &mut weights, group, stats, recipe)?);
        }
        layers.push((groups, decided, layer_prefix));
    }
    progress(Progress {
        stage: "calibrating",
        done: config.num_hidden_layers.into(),
        total: config.num_hidden_layers.into(),
    });
    let flat: Vec<(&LinearGroup, &[Candidate; 2])> = layers
        .iter()
        .flat_map(|(groups, decided, _)| groups.iter().zip(decided))
        .collect();
    let bits = choose_bits(&flat, recipe);
    let mut bits = bits.into_iter();
    layers
        .into_iter()
        .map(|(groups, decided, prefix)| {
            let groups = groups.into_iter().zip(decided);
            let groups = groups.map(|(group, candidates)| {
                let (weights, activations) = bits.next().expect("bits for each group");
                group_plan(config, recipe, group, candidates, weights, activations)
            });
            Ok(LayerPlan {
                groups: groups.collect::<Result<_, QuantizeError>>()?,
                prefix,
            })
        })
        .collect()
}

/// A layer whose recipe needs no samples.
fn uncalibrated(config: &ModelConfig, recipe: &Recipe, layer: u32) -> LayerPlan {
    let BitPolicy::All {
        weights,
        activations,
    } = recipe.bits
    else {
        unreachable!("other policies need samples");
    };
    let groups = config
        .layer_groups(layer)
        .into_iter()
        .map(|group| GroupPlan {
            smoothing: Vec::new(),
            linears: group
                .linears
                .iter()
                .map(|shape| LinearPlan {
                    shape: shape.clone(),
                    format: format(recipe, weights, activations),
                    input: None,
                })
                .collect(),
            group,
            expected_error: [0.0; 2],
        });
    LayerPlan {
        groups: groups.collect(),
        prefix: LayerPrefix::default(),
    }
}

fn format(recipe: &Recipe, weight_bits: Bits, activation_bits: Bits) -> LinearFormat {
    LinearFormat {
        weight_bits,
        weight_scale: recipe.weight_scale,
        group_size: match weight_bits {
            Bits::Int4 => recipe.group_size,
            Bits::Int8 => 0,
        },
        activation_bits,
        activation_scale: match recipe.activations {
            Activations::Static => ActivationScale::Static,
            Activations::Dynamic | Activations::Float => ActivationScale::Dynamic,
        },
    }
}

/// (weights, activations) of every group in the order of the layers.
fn choose_bits(groups: &[(&LinearGroup, &[Candidate; 2])], recipe: &Recipe) -> Vec<(Bits, Bits)> {
    match recipe.bits {
        BitPolicy::All {
            weights,
            activations,
        } => vec![(weights, activations); groups.len()],
        BitPolicy::Int4Share(share) => {
            let sensitivities: Vec<Sensitivity> = groups
                .iter()
                .map(|(group, [int4, int8])| Sensitivity {
                    cost: (int4.error - int8.error).max(0.0),
                    macs: group_macs(group),
                })
                .collect();
            let bits = choose_by_share(&sensitivities, share);
            bits.into_iter().map(|bits| (bits, bits)).collect()
        }
        BitPolicy::DivergenceLimit(_) | BitPolicy::Bytes(_) => todo!(),
    }
}

fn group_macs(group: &LinearGroup) -> u64 {
    let macs =
        |linear: &LinearShape| u64::from(linear.in_features) * u64::from(linear.out_features);
    group.linears.iter().map(macs).sum()
}

/// How the group would be quantized at INT4 and at INT8, each at its best. Smooths `weights` as INT8's candidate says, so
/// that later groups are decided on the weights that they will have.
fn candidates(
    config: &ModelConfig,
    weights: &mut HostLayer,
    group: &LinearGroup,
    stats: &ActivationStats,
    recipe: &Recipe,
) -> Result<[Candidate; 2], QuantizeError> {
    let producer = Producer::of(config, group);
    let x_absmax = producer.reduce_max(&stats.absmax);
    let w_absmax = producer.reduce_max(&weights.column_absmax(group));
    let at = |strength: f32| smoothing_scales(&x_absmax, &w_absmax, strength);
    let tried: Vec<Vec<f32>> = match (recipe.smoothing, &group.fold) {
        (Smoothing::Off, _) | (_, Fold::None) => vec![Vec::new()],
        (Smoothing::Strength(strength), _) => vec![at(strength)],
        (Smoothing::Search, _) => std::iter::once(Vec::new())
            .chain(STRENGTHS.map(at))
            .collect(),
    };
    let best = |bits: Bits| {
        let tried = tried.iter().map(|scales| {
            let expanded = match scales.is_empty() {
                true => vec![1.0; stats.absmax.len()],
                false => producer.expand(scales),
            };
            let mut candidate = candidate(weights, group, stats, &expanded, recipe, bits);
            candidate.smoothing.clone_from(scales);
            candidate
        });
        let best = tried.reduce(|best, next| if next.error < best.error { next } else { best });
        best.expect("at least one is tried")
    };
    Ok([best(Bits::Int4), best(Bits::Int8)])
}

/// What the group costs with its input channels divided by `scales`.
fn candidate(
    weights: &HostLayer,
    group: &LinearGroup,
    stats: &ActivationStats,
    scales: &[f32],
    recipe: &Recipe,
    bits: Bits,
) -> Candidate {
    let (weight_bits, activation_bits) = match recipe.bits {
        BitPolicy::All {
            weights,
            activations,
        } => (weights, activations),
        _ => (bits, bits),
    };
    let mut stats = stats.clone();
    stats.rescale(scales);
    let channels = scales.len();
    let mut energy = vec![0.0_f64; channels];
    let mut weight_error = 0.0;
    let config = GridConfig {
        bits: weight_bits,
        granularity: recipe.weight_scale,
        group_size: match weight_bits {
            Bits::Int4 => recipe.group_size as usize,
            Bits::Int8 => 0,
        },
        clip: ClipSearch::OFF,
    };
    for linear in &group.linears {
        let mut scaled = weights.weight(&linear.name).to_vec();
        for row in scaled.chunks_exact_mut(channels) {
            for ((value, scale), energy) in row.iter_mut().zip(scales).zip(&mut energy) {
                *value *= scale;
                *energy += f64::from(*value) * f64::from(*value);
            }
        }
        let grid = Grid::fit(&scaled, channels, &stats.mean_square, config);
        let rounded = grid.dequantize(&grid.round(&scaled));
        for (row, rounded) in scaled
            .chunks_exact(channels)
            .zip(rounded.chunks_exact(channels))
        {
            for ((value, rounded), square) in row.iter().zip(rounded).zip(&stats.mean_square) {
                let error = f64::from(value - rounded);
                weight_error += error * error * square;
            }
        }
    }
    let max_added = channels as f32
        * match activation_bits {
            Bits::Int4 => recipe.added_int4,
            Bits::Int8 => recipe.added_int8,
        };
    let input = match recipe.activations {
        Activations::Static => choose_static(
            &stats,
            &energy,
            activation_bits,
            recipe.parts,
            max_added as usize,
        ),
        Activations::Dynamic | Activations::Float => StaticChoice {
            threshold: 1.0,
            parts: vec![1; channels],
            error: 0.0,
        },
    };
    let output: f64 = energy
        .iter()
        .zip(&stats.mean_square)
        .map(|(w, x)| w * x)
        .sum();
    Candidate {
        smoothing: Vec::new(),
        error: (input.error + weight_error) / output.max(f64::MIN_POSITIVE),
        input,
    }
}

/// The plan of a group at these bits.
fn group_plan(
    config: &ModelConfig,
    recipe: &Recipe,
    group: LinearGroup,
    [int4, int8]: [Candidate; 2],
    weight_bits: Bits,
    activation_bits: Bits,
) -> Result<GroupPlan, QuantizeError> {
    let expected_error = [int4.error, int8.error];
    let candidate = match activation_bits {
        Bits::Int4 => int4,
        Bits::Int8 => int8,
    };
    let input = match recipe.activations {
        Activations::Dynamic | Activations::Float => None,
        Activations::Static => {
            let tile = match group.fold {
                // A workgroup of attention writes one head.
                Fold::Linear { per_head: true, .. } => config.head_dim as usize,
                _ => TILE,
            };
            let ones = vec![1; candidate.input.parts.len()];
            let map = FlatMap::from_parts(
                candidate.input.parts,
                ones,
                candidate.input.threshold,
                f32::INFINITY,
                tile,
            );
            let scale = candidate.input.threshold / activation_bits.q_max() as f32;
            Some(Arc::new(FlatInput { scale, map }))
        }
    };
    let linears = group
        .linears
        .iter()
        .map(|shape| LinearPlan {
            shape: shape.clone(),
            format: format(recipe, weight_bits, activation_bits),
            input: input.clone(),
        })
        .collect();
    Ok(GroupPlan {
        group,
        smoothing: candidate.smoothing,
        linears,
        expected_error,
    })
}

/// The second pass: writes the checkpoint.
pub async fn write(
    source: &Source<'_>,
    executor: &mut Executor,
    recipe: &Recipe,
    plan: &[LayerPlan],
    out_dir: &Path,
    shard_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<(String, WeightError)>, QuantizeError> {
    let checkpoint = source.checkpoint;
    let config = &checkpoint.config;
    let prefix = usize::from(recipe.prefix && source.samples.is_some());
    let quantization = quantization_config(source, recipe, plan);
    let json = checkpoint.config_with(&quantization).await?;

    let tables: Vec<LinearPlan> = config
        .tables()
        .iter()
        .map(|name| table_plan(config, name))
        .collect();
    let mut tensors: Vec<NewTensor> = tables.iter().flat_map(LinearPlan::tensors).collect();
    for (layer, plan) in plan.iter().enumerate() {
        tensors.extend(vectors(&config.layer_norms(layer as u32)));
        if prefix > 0 {
            let width = u64::from(config.num_key_value_heads * config.head_dim);
            tensors.extend(prefix_names(layer).map(|name| NewTensor {
                name,
                dtype: Dtype::F32,
                shape: vec![prefix as u64, width],
            }));
        }
        tensors.extend(
            plan.groups
                .iter()
                .flat_map(|g| &g.linears)
                .flat_map(LinearPlan::tensors),
        );
    }
    tensors.extend(vectors(&config.final_norms()));
    let mut floats = Vec::new();
    for (name, shape) in config.float_matrices() {
        let name = format!("{name}.weight");
        let shape = shape.map(u64::from);
        let info = checkpoint.expect_float(&name, &shape)?;
        floats.push((name.clone(), info.bytes));
        tensors.push(NewTensor {
            name,
            dtype: info.dtype,
            shape: shape.to_vec(),
        });
    }
    let mut writer = CheckpointWriter::create(out_dir, tensors, shard_bytes)?;

    for table in &tables {
        write_table(checkpoint, table, &mut writer).await?;
    }
    let mut hidden = match source.samples {
        Some(samples) => embed(checkpoint, executor, samples, prefix, true).await?,
        None => Vec::new(),
    };
    let mut errors = Vec::new();
    for (layer, plan) in plan.iter().enumerate() {
        progress(Progress {
            stage: "quantizing",
            done: layer as u64,
            total: u64::from(config.num_hidden_layers),
        });
        let mut weights = read_layer(source, layer as u32).await?;
        for group in plan
            .groups
            .iter()
            .filter(|group| !group.smoothing.is_empty())
        {
            let producer = Producer::of(config, &group.group);
            weights.rescale(&group.group, &producer, &group.smoothing);
        }
        let prefix_rows = match prefix {
            0 => LayerPrefix::default(),
            _ => rescaled_prefix(config, plan),
        };
        let quantized = match source.samples {
            Some(samples) if recipe.gptq.is_some() => {
                let mut stage =
                    quantized_stage(executor, config, layer as u32, samples, prefix, plan).await?;
                stage.write_vectors(&weights)?;
                stage.write_prefix(&prefix_rows)?;
                let found =
                    with_hessians(&mut stage, &hidden, plan, &weights, recipe, &mut errors).await?;
                stage.forward(&mut hidden, &mut |_| {}).await?;
                found
            }
            _ => {
                let mut found = Vec::new();
                for linear in plan.groups.iter().flat_map(|group| &group.linears) {
                    let (quantized, _) = linear.quantize(
                        weights.weight(&linear.shape.name),
                        weights.bias(&linear.shape),
                        &[],
                        None,
                        clip(recipe),
                    )?;
                    found.push(quantized);
                }
                found
            }
        };
        for (name, len) in config.layer_norms(layer as u32) {
            writer.append_f32(&name, &weights.tensor(&name)[..len as usize])?;
        }
        if prefix > 0 {
            let [k, v] = prefix_names(layer);
            writer.append_f32(&k, &prefix_rows.k)?;
            writer.append_f32(&v, &prefix_rows.v)?;
        }
        let linears = plan.groups.iter().flat_map(|group| &group.linears);
        for (linear, quantized) in linears.zip(&quantized) {
            linear.write(&mut writer, quantized)?;
        }
    }
    for (name, len) in config.final_norms() {
        writer.append_f32(&name, &checkpoint.read_f32(&name, 0, len as usize).await?)?;
    }
    for (name, bytes) in &floats {
        copy_tensor(checkpoint, &mut writer, name, *bytes).await?;
    }
    copy_beside(&checkpoint.folder, out_dir).await?;
    writer.finish(&json)?;
    progress(Progress {
        stage: "quantizing",
        done: u64::from(config.num_hidden_layers),
        total: u64::from(config.num_hidden_layers),
    });
    Ok(errors)
}

/// A layer's linears by GPTQ, group after group, each with the groups before it quantized already.
async fn with_hessians(
    stage: &mut Stage<'_>,
    hidden: &[f32],
    plan: &LayerPlan,
    weights: &HostLayer,
    recipe: &Recipe,
    errors: &mut Vec<(String, WeightError)>,
) -> Result<Vec<QuantizedLinear>, QuantizeError> {
    let joined: Vec<(String, Vec<String>)> = stage
        .linears()
        .map(|linear| {
            let names = linear.sources.iter().map(|source| source.name.clone());
            (linear.linear.label.clone(), names.collect())
        })
        .collect();
    let mut all = Vec::new();
    for (label, names) in joined {
        let linears: Vec<&LinearPlan> = names.iter().map(|name| plan.linear(name)).collect();
        let hessian = stage.hessian(&label, hidden).await?;
        let importance = hessian.diagonal();
        let factor = recipe
            .gptq
            .map(|gptq| Factor::new(&hessian, gptq))
            .transpose()
            .map_err(|source| QuantizeError::Gptq {
                linear: label.clone(),
                source,
            })?;
        drop(hessian);
        let mut quantized = Vec::new();
        for linear in &linears {
            let (integers, error) = linear.quantize(
                weights.weight(&linear.shape.name),
                weights.bias(&linear.shape),
                &importance,
                factor.as_ref(),
                clip(recipe),
            )?;
            errors.push((linear.shape.name.clone(), error));
            quantized.push(integers);
        }
        stage.write_quantized(&label, &quantized.iter().collect::<Vec<_>>())?;
        all.extend(quantized);
    }
    Ok(all)
}

fn clip(recipe: &Recipe) -> ClipSearch {
    match recipe.clip {
        true => ClipSearch::DEFAULT,
        false => ClipSearch::OFF,
    }
}

/// The stored values as the smoothed value projection would make them. Keys are not smoothed.
fn rescaled_prefix(config: &ModelConfig, plan: &LayerPlan) -> LayerPrefix {
    let mut prefix = plan.prefix.clone();
    let values = plan
        .groups
        .iter()
        .find(|group| matches!(group.group.fold, Fold::Linear { per_head: true, .. }));
    if let Some(group) = values.filter(|group| !group.smoothing.is_empty()) {
        let width = (config.num_key_value_heads * config.head_dim) as usize;
        for row in prefix.v.chunks_exact_mut(width) {
            for (value, scale) in row.iter_mut().zip(&group.smoothing) {
                *value /= scale;
            }
        }
    }
    prefix
}

fn prefix_names(layer: usize) -> [String; 2] {
    ["k_prefix", "v_prefix"].map(|name| format!("model.layers.{layer}.self_attn.{name}"))
}

fn vectors(named: &[(String, u32)]) -> impl Iterator<Item = NewTensor> + '_ {
    named.iter().map(|(name, len)| NewTensor {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: vec![u64::from(*len)],
    })
}

fn table_plan(config: &ModelConfig, name: &str) -> LinearPlan {
    LinearPlan {
        shape: LinearShape {
            name: name.to_owned(),
            in_features: config.embedding_size(),
            out_features: config.vocab_size,
            bias: false,
        },
        format: TABLE_FORMAT,
        input: None,
    }
}

/// The most common format as the default, the others as overrides.
fn quantization_config(
    source: &Source<'_>,
    recipe: &Recipe,
    plan: &[LayerPlan],
) -> QuantizationConfig {
    let linears: Vec<&LinearPlan> = plan
        .iter()
        .flat_map(|layer| layer.groups.iter().flat_map(|group| &group.linears))
        .collect();
    let count = |format: LinearFormat| linears.iter().filter(|l| l.format == format).count();
    let default = linears
        .iter()
        .map(|linear| linear.format)
        .reduce(|best, next| {
            if count(next) > count(best) {
                next
            } else {
                best
            }
        })
        .unwrap_or(TABLE_FORMAT);
    let mut quantization = QuantizationConfig::new(&recipe.name, default);
    for linear in linears.iter().filter(|linear| linear.format != default) {
        quantization
            .overrides
            .insert(linear.shape.name.clone(), linear.format);
    }
    if let (true, Some(samples)) = (recipe.prefix, source.samples) {
        quantization.kv_prefix = Some(KvPrefix {
            tokens: vec![samples.windows[0][0]],
        });
    }
    quantization
}

async fn read_layer(source: &Source<'_>, layer: u32) -> Result<HostLayer, QuantizeError> {
    let config = &source.checkpoint.config;
    let mut weights = HostLayer::read(source.checkpoint, layer).await?;
    if let Some(outliers) = source.outliers {
        for (at, group) in config.layer_groups(layer).iter().enumerate() {
            if let Fold::Norm { .. } = group.fold {
                let producer = Producer::of(config, group);
                let scales = outliers.scales(layer, at, producer.channels);
                weights.rescale(group, &producer, &scales);
            }
        }
    }
    Ok(weights)
}

/// Writes a table chunk by chunk: each row has a scale of its own.
async fn write_table(
    checkpoint: &Checkpoint,
    table: &LinearPlan,
    writer: &mut CheckpointWriter,
) -> Result<(), QuantizeError> {
    let mut scales = Vec::new();
    let name = &table.shape.name;
    for (first, rows) in table_chunks(&table.shape) {
        let in_features = u64::from(table.shape.in_features);
        let weights = checkpoint
            .read_f32(
                &format!("{name}.weight"),
                u64::from(first) * in_features,
                (u64::from(rows) * in_features) as usize,
            )
            .await?;
        for row in weights.chunks_exact(table.shape.in_features as usize) {
            let (scale, words) = pack::quantize_row_i8(row);
            writer.append_words(&format!("{name}.qweight"), &words)?;
            scales.push(scale);
        }
    }
    writer.append_f32(&format!("{name}.scales"), &scales)?;
    Ok(())
}

/// (first, number) of rows that are in memory together.
fn table_chunks(shape: &LinearShape) -> impl Iterator<Item = (u32, u32)> {
    let rows = shape.out_features;
    let chunk = (TABLE_ELEMENTS / shape.in_features).max(1);
    (0..rows)
        .step_by(chunk as usize)
        .map(move |first| (first, chunk.min(rows - first)))
}

/// The hidden states before the first layer, rows from `first` on; of the quantized embedding where `quantized`.
async fn embed(
    checkpoint: &Checkpoint,
    executor: &mut Executor,
    samples: &Samples,
    first: usize,
    quantized: bool,
) -> Result<Vec<f32>, QuantizeError> {
    let config = &checkpoint.config;
    let part = Part {
        embedding: true,
        layers: 0..0,
        head: false,
    };
    let mut stage = Stage::new(executor, config, part, samples, first, &float).await?;
    let read = async |name: &str, features: u32, first: u32, rows: u32| {
        let features = u64::from(features);
        let mut values = checkpoint
            .read_f32(
                &format!("{name}.weight"),
                u64::from(first) * features,
                (u64::from(rows) * features) as usize,
            )
            .await?;
        if quantized && name == config.tables()[0] {
            for row in values.chunks_exact_mut(features as usize) {
                let (scale, words) = pack::quantize_row_i8(row);
                let mut integers = vec![0_i8; row.len()];
                pack::unpack_i8(&words, &mut integers);
                for (value, integer) in row.iter_mut().zip(integers) {
                    *value = scale * f32::from(integer);
                }
            }
        }
        Ok(values)
    };
    stage.write_embedding(read).await?;
    stage.embed().await
}

fn float(_: &str) -> LinearSpec {
    LinearSpec {
        format: WeightFormat::F32,
        input: Input::Float,
    }
}

async fn float_stage<'a>(
    executor: &'a mut Executor,
    config: &ModelConfig,
    layer: u32,
    samples: &'a Samples,
) -> Result<Stage<'a>, QuantizeError> {
    let part = Part {
        embedding: false,
        layers: layer..layer + 1,
        head: false,
    };
    Stage::new(executor, config, part, samples, 0, &float).await
}

async fn quantized_stage<'a>(
    executor: &'a mut Executor,
    config: &ModelConfig,
    layer: u32,
    samples: &'a Samples,
    first: usize,
    plan: &LayerPlan,
) -> Result<Stage<'a>, QuantizeError> {
    let part = Part {
        embedding: false,
        layers: layer..layer + 1,
        head: false,
    };
    let spec = |name: &str| plan.linear(name).spec();
    Stage::new(executor, config, part, samples, first, &spec).await
}
