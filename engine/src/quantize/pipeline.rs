//! The whole way, in two passes over the layers.
//!
//! 1. [`decide`]: the float model runs over the samples. Of each layer: how its channels are smoothed, threshold and parts of
//!    every input, and what each choice of bits would cost. Then the bits of all layers are chosen.
//! 2. [`write`]: layer by layer, the layers before it quantized, weights become integers, and the layer is run as it will run.

use super::QuantizeError;
use super::activation::{ActivationStats, StaticChoice, choose_static};
use super::bit_width::{
    Candidate as SizedCandidate, Divergence, Histogram, Sensitivity, choose_by_limit,
    choose_by_share, choose_within,
};
use super::calibrate::{
    Beside, Cross, CrossSums, LayerPrefix, Samples, Side, Stage, TABLE_ELEMENTS,
};
use super::flatten::FlatMap;
use super::gptq::{Factor, GptqConfig};
use super::grid::{ClipSearch, Grid, GridConfig};
use super::layer::{HostLayer, Producer};
use super::linear::{FlatInput, LinearPlan, QuantizedLinear, WeightError};
use super::outliers::Outliers;
use super::recipe::{Activations, BitPolicy, Choice, Recipe, Smoothing};
use super::refit::{self, RightHand};
use super::sensitivity::Streams;
use super::smooth::{balancing_scales, bound_rows, smoothing_scales};
use crate::checkpoint::{
    ActivationFormat, Checkpoint, CheckpointWriter, Dtype, Fold, KvPrefix, LinearFormat,
    LinearGroup, LinearShape, ModelConfig, NewTensor, QuantizationConfig, TABLE_FORMAT,
    copy_beside,
};
use crate::exec::Executor;
use crate::model::{LinearSpec, Part};
use crate::ops::{Input, WeightFormat};
use crate::tensor::{Bits, Granularity};
use plateau_shaders::linear::norm_input;
use plateau_shaders::pack;
use std::path::Path;
use std::sync::Arc;

/// Rows of a group's input that are kept for searches.
const SAMPLE_ROWS: usize = 4096;
/// Source channels whose extra channels share words.
const TILE: usize = 256;
/// Bytes in memory at a time of a tensor that is copied.
const COPY_BYTES: u64 = 1 << 24;

/// What a tensor takes in a safetensors header, at most for the names that there are.
const HEADER_BYTES: u64 = 160;

/// Layers done, of how many.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
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
    /// Keys and values of the first tokens, if the recipe stores them.
    pub prefix: LayerPrefix,
}

/// Linears that share an input.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub group: LinearGroup,
    /// What each produced channel is divided by; empty for nothing.
    pub smoothing: Vec<f32>,
    pub linears: Vec<LinearPlan>,
    /// For each linear and each choice of bits that it had: expected square of the outputs' error over that of the outputs.
    pub expected_errors: Vec<Vec<(Choice, f64)>>,
    /// Of each linear: measured KL divergence of the model's output with it alone quantized by its first choice. May be empty.
    pub divergences: Vec<f64>,
}

impl LayerPlan {
    /// The number of the group that the linear is in.
    fn group_of(&self, name: &str) -> usize {
        let has = |group: &GroupPlan| group.linears.iter().any(|l| l.shape.name == name);
        let found = self.groups.iter().position(has);
        found.expect("a plan has each linear of its layer")
    }

    fn linear(&self, name: &str) -> &LinearPlan {
        let mut linears = self.groups.iter().flat_map(|group| &group.linears);
        let found = linears.find(|linear| linear.shape.name == name);
        found.expect("a plan has each linear of its layer")
    }
}

/// A group's input and weights at one choice of bits.
struct Candidate {
    choice: Choice,
    input: StaticChoice,
    /// Of each linear: expected square of the outputs' error over that of the outputs.
    errors: Vec<f64>,
    /// KL divergence of the quantized values from the float ones: of the input, and of each linear's weights. Measured where
    /// bits are chosen by it.
    input_divergence: f64,
    weight_divergences: Vec<f64>,
}

/// A group between the passes.
struct DecidedGroup {
    group: LinearGroup,
    smoothing: Vec<f32>,
    /// One for each choice.
    candidates: Vec<Candidate>,
}

/// A layer between the passes.
struct DecidedLayer {
    groups: Vec<DecidedGroup>,
    prefix: LayerPrefix,
}

/// Both passes: writes the quantized checkpoint into `out_dir`.
///
/// The same model, recipe, samples and device make the same bytes, and on the CPU twins everywhere the same.
pub async fn quantize(
    source: &Source<'_>,
    executor: &mut Executor,
    recipe: &Recipe,
    out_dir: &Path,
    shard_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<LayerPlan>, QuantizeError> {
    let plan = decide(source, executor, recipe, progress).await?;
    write(
        source,
        executor,
        recipe,
        &plan,
        out_dir,
        shard_bytes,
        progress,
    )
    .await?;
    Ok(plan)
}

/// The first pass: how each layer will be quantized.
pub async fn decide(
    source: &Source<'_>,
    executor: &mut Executor,
    recipe: &Recipe,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<LayerPlan>, QuantizeError> {
    let config = &source.checkpoint.config;
    if let Some(quantization) = &source.checkpoint.quantization {
        return Err(QuantizeError::AlreadyQuantized {
            folder: source.checkpoint.folder.name(),
            recipe: quantization.recipe.clone(),
        });
    }
    let Some(samples) = source.samples else {
        if recipe.needs_calibration() {
            let recipe = recipe.name.clone();
            return Err(QuantizeError::NeedsCalibration { recipe });
        }
        return Ok((0..config.num_hidden_layers)
            .map(|layer| uncalibrated(config, recipe, layer))
            .collect());
    };
    check_prefix(recipe, samples)?;
    let mut report = |done: u32| {
        progress(Progress {
            done: done.into(),
            total: config.num_hidden_layers.into(),
        });
    };
    let prefix = usize::from(recipe.prefix);
    let choices = recipe.choices();
    let mut hidden = embed(source.checkpoint, executor, samples, 0, false).await?;
    let mut streams = (choices.len() > 1).then(|| Streams::new(samples, prefix, config, &hidden));
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        report(layer);
        let weights = read_layer(source, layer).await?;
        let groups = config.layer_groups(layer);
        let mut stage = layer_stage(executor, config, layer, samples, 0, &float).await?;
        stage.write_vectors(&weights)?;
        stage.write_float(&weights)?;
        let (stats, layer_prefix) =
            observe(&mut stage, samples, &groups, prefix, &mut hidden).await?;
        drop(stage);
        // Streams need the weights as they are besides.
        let (mut smoothed, weights) = match &streams {
            Some(_) => (weights.clone(), Some(weights)),
            None => (weights, None),
        };
        let mut decided = Vec::new();
        for (group, stats) in groups.into_iter().zip(&stats) {
            let (smoothing, candidates) = candidates(config, &smoothed, &group, stats, recipe);
            // Later groups are decided on the weights that they will have.
            if !smoothing.is_empty() {
                smoothed.rescale(&group, &Producer::of(config, &group), &smoothing);
            }
            decided.push(DecidedGroup {
                group,
                smoothing,
                candidates,
            });
        }
        drop(smoothed);
        let decided = DecidedLayer {
            groups: decided,
            prefix: layer_prefix,
        };
        if let Some((streams, weights)) = streams.as_mut().zip(weights) {
            branch(executor, config, recipe, layer, &weights, &decided, streams).await?;
        }
        layers.push(decided);
    }
    report(config.num_hidden_layers);
    let (chosen, divergences) = match streams {
        None => (vec![0; config.linears().len()], Vec::new()),
        Some(streams) => {
            let found = head_divergences(source.checkpoint, executor, streams).await?;
            let chosen = choose(source.checkpoint, recipe, &layers, &found)?;
            (chosen, found)
        }
    };
    let mut chosen = chosen.into_iter();
    let mut divergences = divergences.into_iter();
    let plans = layers.into_iter().map(|layer| {
        let groups = layer.groups.into_iter().map(|decided| {
            let count = decided.group.linears.len();
            let chosen: Vec<usize> = chosen.by_ref().take(count).collect();
            let errors = (0..count).map(|linear| {
                let of = |c: &Candidate| (c.choice, c.errors[linear]);
                decided.candidates.iter().map(of).collect()
            });
            GroupPlan {
                linears: linear_plans(config, recipe, &decided, &chosen),
                expected_errors: errors.collect(),
                divergences: divergences.by_ref().take(count).collect(),
                group: decided.group,
                smoothing: decided.smoothing,
            }
        });
        LayerPlan {
            groups: groups.collect(),
            prefix: layer.prefix,
        }
    });
    Ok(plans.collect())
}

/// Whether all windows begin with the token that the recipe stores.
fn check_prefix(recipe: &Recipe, samples: &Samples) -> Result<(), QuantizeError> {
    let first = |window: usize| samples.windows[window][0];
    let other = (0..samples.windows.len()).find(|&window| first(window) != first(0));
    match other.filter(|_| recipe.prefix) {
        None => Ok(()),
        Some(window) => Err(QuantizeError::Prefix {
            recipe: recipe.name.clone(),
            window,
            found: first(window),
            expected: first(0),
        }),
    }
}

/// A layer whose recipe needs no samples.
fn uncalibrated(config: &ModelConfig, recipe: &Recipe, layer: u32) -> LayerPlan {
    let choice = recipe.choices()[0];
    let plan = |group: LinearGroup| GroupPlan {
        smoothing: Vec::new(),
        linears: group
            .linears
            .iter()
            .map(|shape| LinearPlan {
                shape: shape.clone(),
                format: format(recipe, choice),
                input: None,
            })
            .collect(),
        group,
        expected_errors: Vec::new(),
        divergences: Vec::new(),
    };
    LayerPlan {
        groups: config.layer_groups(layer).into_iter().map(plan).collect(),
        prefix: LayerPrefix::default(),
    }
}

fn format(recipe: &Recipe, choice: Choice) -> LinearFormat {
    LinearFormat {
        weight_bits: choice.weights,
        weight_scale: recipe.weight_scale,
        group_size: choice.group_size,
        activations: match recipe.activations {
            Activations::Static => ActivationFormat::Static(choice.activations),
            Activations::Dynamic => ActivationFormat::Dynamic(choice.activations),
            Activations::Float => ActivationFormat::Float,
        },
    }
}

/// Runs the float layer over all samples, in place: what its groups are given, and the keys and values of the first tokens.
async fn observe(
    stage: &mut Stage<'_>,
    samples: &Samples,
    groups: &[LinearGroup],
    prefix: usize,
    hidden: &mut [f32],
) -> Result<(Vec<ActivationStats>, LayerPrefix), QuantizeError> {
    let mut stats: Vec<ActivationStats> = groups
        .iter()
        .map(|group| ActivationStats::new(group.in_features as usize))
        .collect();
    let rows = samples.windows.len() * (samples.window() - prefix);
    let keep = rows.div_ceil(SAMPLE_ROWS).max(1);
    stage
        .forward_tapped(hidden, &mut |tap| {
            let stats = &mut stats[tap.linear];
            // The stored tokens are not quantized, so they do not count.
            let windows = tap.values.chunks_exact(tap.rows_per_window * tap.features);
            for (window, values) in windows.enumerate() {
                let window = tap.first_row / tap.rows_per_window + window;
                let first = window * (tap.rows_per_window - prefix);
                stats.add(&values[prefix * tap.features..], first, keep);
            }
        })
        .await?;
    let mut layer_prefix = stage.read_prefix(prefix).await?;
    // The first window's; they are the same in all.
    layer_prefix.hidden =
        hidden[..prefix * hidden.len() / (samples.windows.len() * samples.window())].to_vec();
    stats.iter_mut().for_each(ActivationStats::finish);
    Ok((stats, layer_prefix))
}

/// Lets a stream for each of the layer's linears leave the exact one, and takes the others through the layer.
async fn branch(
    executor: &mut Executor,
    config: &ModelConfig,
    recipe: &Recipe,
    layer: u32,
    weights: &HostLayer,
    decided: &DecidedLayer,
    streams: &mut Streams,
) -> Result<(), QuantizeError> {
    let (samples, first) = (streams.samples.clone(), streams.first);
    let mut branches = 0;
    for decided_group in &decided.groups {
        let group = &decided_group.group;
        let mut weights = weights.clone();
        let mut prefix = decided.prefix.clone();
        if !decided_group.smoothing.is_empty() {
            weights.rescale(
                group,
                &Producer::of(config, group),
                &decided_group.smoothing,
            );
            rescale_prefix(&mut prefix, group, &decided_group.smoothing);
        }
        let coarsest = vec![0; group.linears.len()];
        for linear in linear_plans(config, recipe, decided_group, &coarsest) {
            let spec = |name: &str| match name == linear.shape.name {
                true => linear.spec(),
                false => float(name),
            };
            let mut stage = layer_stage(executor, config, layer, &samples, first, &spec).await?;
            stage.write_vectors(&weights)?;
            stage.write_prefix(&prefix)?;
            let quantized = round(&linear, &weights, recipe);
            match linear.format.activations {
                // Joined with others, since it computes as they do.
                ActivationFormat::Float => {
                    let values = quantized.values(linear.flat_features() as usize);
                    let mut weights = weights.clone();
                    weights.set_weight(&linear.shape.name, &values);
                    stage.write_float(&weights)?;
                }
                ActivationFormat::Dynamic(_) | ActivationFormat::Static(_) => {
                    stage.write_float(&weights)?;
                    stage.write_quantized(&linear.shape.name, &[&quantized])?;
                }
            }
            streams.branch(&mut stage).await?;
            branches += 1;
        }
    }
    let mut stage = layer_stage(executor, config, layer, &samples, first, &float).await?;
    stage.write_vectors(weights)?;
    stage.write_float(weights)?;
    streams.advance(&mut stage, &decided.prefix, branches).await
}

/// What the head makes of the streams.
async fn head_divergences(
    checkpoint: &Checkpoint,
    executor: &mut Executor,
    streams: Streams,
) -> Result<Vec<f64>, QuantizeError> {
    let config = &checkpoint.config;
    let part = Part {
        embedding: false,
        layers: config.num_hidden_layers..config.num_hidden_layers,
        head: true,
    };
    let samples = streams.samples.clone();
    let mut stage = Stage::new(executor, config, part, &samples, streams.first, &float).await?;
    stage.write_vectors(&HostLayer::read_last(checkpoint).await?)?;
    stage.write_embedding(float_rows(checkpoint, false)).await?;
    streams.divergences(&mut stage).await
}

/// Which candidate each linear gets, in the order of the layers. `divergences` are those of the first candidates.
fn choose(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    layers: &[DecidedLayer],
    divergences: &[f64],
) -> Result<Vec<usize>, QuantizeError> {
    let mut linears = Vec::new();
    for group in layers.iter().flat_map(|layer| &layer.groups) {
        linears.extend((0..group.group.linears.len()).map(|linear| (group, linear)));
    }
    let linears: Vec<(&DecidedGroup, usize, f64)> = linears
        .into_iter()
        .zip(divergences)
        .map(|((group, linear), measured)| (group, linear, *measured))
        .collect();
    // What another candidate would have measured: the divergence grows with the square of the error.
    let cost = |group: &DecidedGroup, linear: usize, measured: f64, at: usize| {
        let first = group.candidates[0].errors[linear].max(f64::MIN_POSITIVE);
        measured * group.candidates[at].errors[linear] / first
    };
    let index = |bits: Bits| usize::from(bits == Bits::Int8);
    match recipe.bits {
        BitPolicy::All { .. } => Ok(vec![0; linears.len()]),
        BitPolicy::Int4Share(share) => {
            let sensitivity = |&(group, linear, measured): &(&DecidedGroup, usize, f64)| {
                let [int4, int8] = [0, 1].map(|at| cost(group, linear, measured, at));
                let shape = &group.group.linears[linear];
                Sensitivity {
                    cost: (int4 - int8).max(0.0),
                    macs: u64::from(shape.in_features) * u64::from(shape.out_features),
                }
            };
            let sensitivities: Vec<Sensitivity> = linears.iter().map(sensitivity).collect();
            let bits = choose_by_share(&sensitivities, share);
            Ok(bits.into_iter().map(index).collect())
        }
        BitPolicy::DivergenceLimit(limit) => {
            let divergences: Vec<[Divergence; 2]> = linears
                .iter()
                .map(|(group, linear, _)| {
                    let [int4, int8] = [0, 1].map(|at| &group.candidates[at]);
                    let input = Divergence {
                        int4: int4.input_divergence,
                        int8: int8.input_divergence,
                    };
                    let weights = Divergence {
                        int4: int4.weight_divergences[*linear],
                        int8: int8.weight_divergences[*linear],
                    };
                    [input, weights]
                })
                .collect();
            let bits = choose_by_limit(&divergences, limit);
            Ok(bits.into_iter().map(index).collect())
        }
        BitPolicy::Bytes(budget) => {
            let config = &checkpoint.config;
            let sized = |&(group, linear, measured): &(&DecidedGroup, usize, f64)| {
                let candidate = |at: usize| {
                    let chosen = vec![at; group.group.linears.len()];
                    let tensors = linear_plans(config, recipe, group, &chosen)[linear].tensors();
                    SizedCandidate {
                        bytes: file_bytes(&tensors),
                        cost: cost(group, linear, measured, at),
                    }
                };
                (0..group.candidates.len()).map(candidate).collect()
            };
            let candidates: Vec<Vec<SizedCandidate>> = linears.iter().map(sized).collect();
            let rest = all_tensors(checkpoint, recipe, &[])?;
            let rest = file_bytes(&rest);
            choose_within(&candidates, budget.saturating_sub(rest))
                .map_err(|source| QuantizeError::OverBudget { rest, source })
        }
    }
}

/// What tensors take in a file, at most: with their part of its header.
fn file_bytes(tensors: &[NewTensor]) -> u64 {
    let bytes = |tensor: &NewTensor| tensor.bytes() + HEADER_BYTES;
    tensors.iter().map(bytes).sum()
}

/// The group's smoothing, and with it one candidate for each choice of bits.
fn candidates(
    config: &ModelConfig,
    weights: &HostLayer,
    group: &LinearGroup,
    stats: &ActivationStats,
    recipe: &Recipe,
) -> (Vec<f32>, Vec<Candidate>) {
    let producer = Producer::of(config, group);
    let x_absmax = producer.reduce_max(&stats.absmax);
    let scales = match (recipe.smoothing, &group.fold) {
        (Smoothing::Off, _) | (_, Fold::None) => Vec::new(),
        (Smoothing::Strength(strength), _) => {
            let w_absmax = producer.reduce_max(&weights.column_absmax(group));
            smoothing_scales(&x_absmax, &w_absmax, strength)
        }
        (Smoothing::Balance, _) => {
            let w_norm = producer.reduce_max(&weights.column_norm(group));
            let mut scales = balancing_scales(&x_absmax, &w_norm);
            if let (Fold::Linear { name, .. }, Granularity::PerTensor) =
                (&group.fold, recipe.weight_scale)
            {
                bound_rows(&mut scales, weights.weight(name));
            }
            scales
        }
    };
    let expanded = match scales.is_empty() {
        true => vec![1.0; stats.absmax.len()],
        false => producer.expand(&scales),
    };
    let candidates = recipe
        .choices()
        .into_iter()
        .map(|choice| candidate(weights, group, stats, &expanded, recipe, choice));
    let candidates = candidates.collect();
    (scales, candidates)
}

/// What the group costs with its input channels divided by `scales`.
fn candidate(
    weights: &HostLayer,
    group: &LinearGroup,
    stats: &ActivationStats,
    scales: &[f32],
    recipe: &Recipe,
    choice: Choice,
) -> Candidate {
    let mut stats = stats.clone();
    stats.rescale(scales);
    let channels = scales.len();
    let by_divergence = matches!(recipe.bits, BitPolicy::DivergenceLimit(_));
    let config = GridConfig {
        bits: choice.weights,
        granularity: recipe.weight_scale,
        group_size: choice.group_size as usize,
        clip: ClipSearch::OFF,
    };
    // Of each linear: energy of each channel, error by its weights, divergence of its weights.
    let mut linears: Vec<(Vec<f64>, f64, f64)> = Vec::new();
    for linear in &group.linears {
        let mut scaled = weights.weight(&linear.name).to_vec();
        let mut energy = vec![0.0_f64; channels];
        for row in scaled.chunks_exact_mut(channels) {
            for ((value, scale), energy) in row.iter_mut().zip(scales).zip(&mut energy) {
                *value *= scale;
                *energy += f64::from(*value) * f64::from(*value);
            }
        }
        let grid = Grid::fit(&scaled, channels, &stats.mean_square, config);
        let rounded = grid.dequantize(&grid.round(&scaled));
        let rows = scaled.chunks_exact(channels);
        let mut weight_error = 0.0;
        for (row, rounded) in rows.zip(rounded.chunks_exact(channels)) {
            for ((value, rounded), square) in row.iter().zip(rounded).zip(&stats.mean_square) {
                let error = f64::from(value - rounded);
                weight_error += error * error * square;
            }
        }
        let found = match by_divergence {
            true => {
                let largest = pack::absmax(&scaled);
                let q_max = choice.weights.q_max();
                divergence(largest, q_max, |histogram| histogram.add(&scaled))
            }
            false => 0.0,
        };
        linears.push((energy, weight_error, found));
    }
    // Each linear counts by its relative error.
    let output = |energy: &[f64]| {
        let products = energy.iter().zip(&stats.mean_square).map(|(w, x)| w * x);
        products.sum::<f64>().max(f64::MIN_POSITIVE)
    };
    let mut total = vec![0.0_f64; channels];
    for (energy, _, _) in &linears {
        let output = output(energy);
        for (total, energy) in total.iter_mut().zip(energy) {
            *total += energy / output;
        }
    }
    let second = matches!(
        group.fold,
        Fold::Linear {
            per_head: false,
            ..
        }
    );
    let max_added = (channels as f32 * recipe.added(choice.activations, second)) as usize;
    let input = match recipe.activations {
        Activations::Static => {
            choose_static(&stats, &total, choice.activations, recipe.parts, max_added)
        }
        Activations::Dynamic | Activations::Float => StaticChoice::exact(channels),
    };
    let threshold = input.threshold;
    let input_divergence = divergence(threshold, choice.activations.q_max(), |histogram| {
        let channels = stats.sample.iter().zip(&input.parts);
        for (sample, parts) in channels.filter(|_| by_divergence) {
            for part in 0..*parts {
                let before = part as f32 * threshold;
                let values = sample.iter().map(|x| (x - before).clamp(0.0, threshold));
                histogram.add(&values.collect::<Vec<f32>>());
            }
        }
    });
    let errors = linears.iter().map(|(energy, weight_error, _)| {
        let by_input = energy.iter().zip(&input.channel_errors).map(|(w, x)| w * x);
        (by_input.sum::<f64>() + weight_error) / output(energy)
    });
    Candidate {
        choice,
        errors: errors.collect(),
        input_divergence,
        weight_divergences: linears.iter().map(|(_, _, found)| *found).collect(),
        input,
    }
}

/// The KL divergence between what `fill` counts, up to `bound`, and the same in steps that reach it.
fn divergence(bound: f32, q_max: u32, fill: impl FnOnce(&mut Histogram)) -> f64 {
    if bound == 0.0 {
        return 0.0;
    }
    let mut histogram = Histogram::new(bound, Histogram::DEFAULT_BINS);
    fill(&mut histogram);
    histogram.divergence(bound / q_max as f32, q_max)
}

/// The linears of a group, each as its chosen candidate stores it.
fn linear_plans(
    config: &ModelConfig,
    recipe: &Recipe,
    decided: &DecidedGroup,
    chosen: &[usize],
) -> Vec<LinearPlan> {
    let tile = match decided.group.fold {
        // A workgroup of attention writes one head.
        Fold::Linear { per_head: true, .. } => config.head_dim as usize,
        // One of the fused gate and up projections writes a tile.
        Fold::Linear { .. } => norm_input::TILE as usize,
        _ => TILE,
    };
    let input = |candidate: &Candidate| {
        let StaticChoice {
            threshold, parts, ..
        } = &candidate.input;
        let ones = vec![1; parts.len()];
        let map = FlatMap::from_parts(parts.clone(), ones, f32::INFINITY, tile);
        let scale = threshold / candidate.choice.activations.q_max() as f32;
        Arc::new(FlatInput { scale, map })
    };
    let inputs: Vec<Option<Arc<FlatInput>>> = decided
        .candidates
        .iter()
        .enumerate()
        .map(|(at, candidate)| {
            let used = chosen.contains(&at) && recipe.activations == Activations::Static;
            used.then(|| input(candidate))
        })
        .collect();
    let plan = |(shape, &at): (&LinearShape, &usize)| LinearPlan {
        shape: shape.clone(),
        format: format(recipe, decided.candidates[at].choice),
        input: inputs[at].clone(),
    };
    decided.group.linears.iter().zip(chosen).map(plan).collect()
}

/// The second pass: writes the checkpoint. Returns what GPTQ left of each linear's error.
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
    let mut writer =
        CheckpointWriter::create(out_dir, all_tensors(checkpoint, recipe, plan)?, shard_bytes)?;

    for table in tables(config) {
        write_table(checkpoint, &table, &mut writer).await?;
    }
    let mut hidden = match source.samples.filter(|_| recipe.gptq.is_some()) {
        Some(samples) => embed(checkpoint, executor, samples, prefix, true).await?,
        None => Vec::new(),
    };
    let refits = recipe.refit && recipe.activations == Activations::Static;
    let mut exact = match source.samples.filter(|_| refits && recipe.gptq.is_some()) {
        Some(samples) => embed(checkpoint, executor, samples, prefix, false).await?,
        None => Vec::new(),
    };
    let mut errors = Vec::new();
    // Small, and written after the linears.
    let (mut norms, mut stored, mut last_hidden) = (Vec::new(), Vec::new(), Vec::new());
    for (layer, plan) in plan.iter().enumerate() {
        let layer = layer as u32;
        progress(Progress {
            done: layer.into(),
            total: config.num_hidden_layers.into(),
        });
        let mut weights = read_layer(source, layer).await?;
        let mut prefix_rows = plan.prefix.clone();
        for group in plan.groups.iter().filter(|g| !g.smoothing.is_empty()) {
            let producer = Producer::of(config, &group.group);
            weights.rescale(&group.group, &producer, &group.smoothing);
            rescale_prefix(&mut prefix_rows, &group.group, &group.smoothing);
        }
        let quantized = match source.samples.zip(recipe.gptq) {
            Some((samples, gptq)) => {
                let spec = |name: &str| plan.linear(name).spec();
                let beside: Option<&dyn Fn(&str) -> LinearSpec> = match refits {
                    true => Some(&float),
                    false => None,
                };
                let part = layer_part(layer);
                let mut stage =
                    Stage::beside(executor, config, part, samples, prefix, &spec, beside).await?;
                stage.write_vectors(&weights)?;
                stage.write_float(&weights)?;
                stage.write_prefix(&prefix_rows)?;
                let found = with_hessians(
                    &mut stage,
                    &hidden,
                    &exact,
                    plan,
                    &mut weights,
                    recipe,
                    gptq,
                    &mut errors,
                )
                .await?;
                stage.forward(Side::Model, &mut hidden).await?;
                if refits {
                    stage.forward(Side::Exact, &mut exact).await?;
                }
                found
            }
            None => {
                let linears = plan.groups.iter().flat_map(|group| &group.linears);
                linears
                    .map(|linear| round(linear, &weights, recipe))
                    .collect()
            }
        };
        for (name, _) in config.layer_norms(layer) {
            norms.push(weights.tensor(&name).to_vec());
        }
        if prefix > 0 {
            stored.extend([prefix_rows.k, prefix_rows.v]);
            last_hidden = prefix_rows.hidden;
        }
        let linears = plan.groups.iter().flat_map(|group| &group.linears);
        for (linear, quantized) in linears.zip(&quantized) {
            linear.write(&mut writer, quantized)?;
        }
    }
    for (name, len) in config.final_norms() {
        norms.push(checkpoint.read_f32(&name, 0, len as usize).await?);
    }
    stored.push(last_hidden);
    let names = other_vectors(config, recipe).into_iter();
    for (tensor, values) in names.zip(norms.iter().chain(&stored)) {
        writer.append_f32(&tensor.name, values)?;
    }
    for (name, _) in config.float_matrices() {
        copy_tensor(checkpoint, &mut writer, &format!("{name}.weight")).await?;
    }
    copy_beside(&checkpoint.folder, out_dir).await?;
    writer.finish(&json)?;
    progress(Progress {
        done: config.num_hidden_layers.into(),
        total: config.num_hidden_layers.into(),
    });
    Ok(errors)
}

/// A layer's linears by GPTQ, group after group, each with the groups before it quantized already. In the order of the plan.
/// Takes the float weights away as it goes.
async fn with_hessians(
    stage: &mut Stage<'_>,
    hidden: &[f32],
    exact: &[f32],
    plan: &LayerPlan,
    weights: &mut HostLayer,
    recipe: &Recipe,
    gptq: GptqConfig,
    errors: &mut Vec<(String, WeightError)>,
) -> Result<Vec<QuantizedLinear>, QuantizeError> {
    let mut all = Vec::new();
    for (label, names) in stage.joined() {
        let linears: Vec<&LinearPlan> = names.iter().map(|name| plan.linear(name)).collect();
        // Not needed again.
        let floats: Vec<Vec<f32>> = names.iter().map(|name| weights.take_weight(name)).collect();
        let beside = (!exact.is_empty()).then_some(Beside {
            hidden: exact,
            number: plan.group_of(&names[0]),
        });
        let (hessian, cross) = stage.hessian(&label, hidden, beside).await?;
        let factor_with = |config: GptqConfig| {
            Factor::new(&hessian, config).map_err(|source| QuantizeError::Gptq {
                linear: label.clone(),
                source,
            })
        };
        let mut flats: Vec<Vec<f32>> = Vec::new();
        match cross {
            Some(cross) => {
                let factor = factor_with(refit::FACTOR)?;
                for (linear, w) in linears.iter().zip(floats) {
                    flats.push(refitted(stage, &cross, linear, &w, &factor).await?);
                }
                stage.free(cross);
            }
            None => {
                let flat_of = |(linear, w): (&&LinearPlan, Vec<f32>)| linear.flat_weights(&w);
                flats.extend(linears.iter().zip(floats).map(flat_of));
            }
        }
        let factor = factor_with(gptq)?;
        let importance = hessian.diagonal();
        drop(hessian);
        let mut quantized = Vec::new();
        for (linear, flat) in linears.into_iter().zip(flats) {
            let bias = weights.bias(&linear.shape);
            let (integers, error) =
                linear.quantize(&flat, bias, &importance, Some(&factor), clip(recipe));
            errors.push((linear.shape.name.clone(), error));
            quantized.push(integers);
        }
        stage.write_quantized(&label, &quantized.iter().collect::<Vec<_>>())?;
        all.extend(quantized);
    }
    Ok(all)
}

/// The flat weights of a linear with weights `w`, fitted to what its quantized inputs have to do with the float model: some outputs
/// after others, so that memory holds no right-hand side of all.
async fn refitted(
    stage: &mut Stage<'_>,
    cross: &CrossSums,
    linear: &LinearPlan,
    w: &[f32],
    factor: &Factor,
) -> Result<Vec<f32>, QuantizeError> {
    let mut flat = linear.flat_weights(w);
    let Some(input) = &linear.input else {
        return Ok(flat);
    };
    let (features, in_features) = (factor.features(), linear.shape.in_features as usize);
    let outputs = linear.shape.out_features as usize;
    let blocks = flat.chunks_mut(features * refit::OUTPUTS);
    let blocks = blocks.zip(w.chunks(in_features * refit::OUTPUTS));
    for (at, (flat, w)) in blocks.enumerate() {
        let first = at * refit::OUTPUTS;
        let block = first..(first + refit::OUTPUTS).min(outputs);
        let mut fit = RightHand::new(features, block);
        let sum = |rows: Cross<'_>| match rows {
            Cross::Inputs { first, values } => fit.add_inputs(first, values, w),
            Cross::Debt { first, values } => fit.add_debt(first, values, outputs),
        };
        stage.read_cross(cross, sum).await?;
        fit.refit(flat, input.scale, factor);
    }
    Ok(flat)
}

/// A linear rounded to nearest.
fn round(linear: &LinearPlan, weights: &HostLayer, recipe: &Recipe) -> QuantizedLinear {
    let (quantized, _) = linear.quantize(
        &linear.flat_weights(weights.weight(&linear.shape.name)),
        weights.bias(&linear.shape),
        &[],
        None,
        clip(recipe),
    );
    quantized
}

fn clip(recipe: &Recipe) -> ClipSearch {
    match recipe.clip {
        true => ClipSearch::DEFAULT,
        false => ClipSearch::OFF,
    }
}

/// The stored values as the smoothed value projection would make them. Keys are not smoothed.
fn rescale_prefix(prefix: &mut LayerPrefix, group: &LinearGroup, scales: &[f32]) {
    if matches!(group.fold, Fold::Linear { per_head: true, .. }) {
        for row in prefix.v.chunks_exact_mut(scales.len()) {
            for (value, scale) in row.iter_mut().zip(scales) {
                *value /= scale;
            }
        }
    }
}

/// Every tensor of the quantized checkpoint, in the order in which they are written.
pub fn all_tensors(
    checkpoint: &Checkpoint,
    recipe: &Recipe,
    plan: &[LayerPlan],
) -> Result<Vec<NewTensor>, QuantizeError> {
    let config = &checkpoint.config;
    let mut tensors: Vec<NewTensor> = tables(config).flat_map(|table| table.tensors()).collect();
    let groups = plan.iter().flat_map(|layer| &layer.groups);
    let linears = groups.flat_map(|group| &group.linears);
    tensors.extend(linears.flat_map(LinearPlan::tensors));
    tensors.extend(other_vectors(config, recipe));
    tensors.extend(float_matrices(checkpoint)?);
    Ok(tensors)
}

fn tables(config: &ModelConfig) -> impl Iterator<Item = LinearPlan> + '_ {
    config.tables().iter().map(|name| LinearPlan {
        shape: LinearShape {
            name: (*name).to_owned(),
            in_features: config.embedding_size(),
            out_features: config.vocab_size,
            bias: false,
        },
        format: TABLE_FORMAT,
        input: None,
    })
}

/// Norms, then the stored keys and values.
fn other_vectors(config: &ModelConfig, recipe: &Recipe) -> Vec<NewTensor> {
    let tensor = |name: String, shape: &[u32]| NewTensor {
        name,
        dtype: Dtype::F32,
        shape: shape.iter().copied().map(u64::from).collect(),
    };
    let norms = config.norms().into_iter();
    let mut tensors: Vec<NewTensor> = norms.map(|(name, len)| tensor(name, &[len])).collect();
    if recipe.prefix {
        let width = config.num_key_value_heads * config.head_dim;
        let layers = 0..config.num_hidden_layers;
        let names = layers.flat_map(|layer| config.kv_prefix_tensors(layer));
        tensors.extend(names.map(|name| tensor(name, &[1, width])));
        let hidden = config.hidden_prefix_tensor().to_owned();
        tensors.push(tensor(hidden, &[1, config.hidden_size]));
    }
    tensors
}

/// Matrices that stay as they are.
fn float_matrices(checkpoint: &Checkpoint) -> Result<Vec<NewTensor>, QuantizeError> {
    let matrices = checkpoint.config.float_matrices().into_iter();
    let tensors = matrices.map(|(name, shape)| {
        let name = format!("{name}.weight");
        let shape = shape.map(u64::from);
        let dtype = checkpoint.expect_float(&name, &shape)?.dtype;
        Ok(NewTensor {
            name,
            dtype,
            shape: shape.to_vec(),
        })
    });
    tensors.collect()
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
        let name = linear.shape.name.clone();
        quantization.overrides.insert(name, linear.format);
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
    let LinearShape {
        name,
        in_features,
        out_features,
        ..
    } = &table.shape;
    let read = float_rows(checkpoint, false);
    let chunk = (TABLE_ELEMENTS / in_features).max(1);
    let mut scales = Vec::new();
    for first in (0..*out_features).step_by(chunk as usize) {
        let weights = read(name, *in_features, first, chunk.min(out_features - first)).await?;
        for row in weights.chunks_exact(*in_features as usize) {
            let (scale, words) = pack::quantize_row_i8(row);
            writer.append_words(&format!("{name}.qweight"), &words)?;
            scales.push(scale);
        }
    }
    writer.append_f32(&format!("{name}.scales"), &scales)?;
    Ok(())
}

/// A tensor as it is, in chunks.
async fn copy_tensor(
    checkpoint: &Checkpoint,
    writer: &mut CheckpointWriter,
    name: &str,
) -> Result<(), QuantizeError> {
    let bytes = checkpoint.tensors.get(name).map_or(0, |info| info.bytes);
    let mut offset = 0;
    while offset < bytes {
        let mut chunk = vec![0; COPY_BYTES.min(bytes - offset) as usize];
        checkpoint.read(name, offset, &mut chunk).await?;
        writer.append(name, &chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

/// The hidden states before the first layer, rows from `first` on; of the quantized embedding where `quantized`.
async fn embed(
    checkpoint: &Checkpoint,
    executor: &mut Executor,
    samples: &Samples,
    first: usize,
    quantized: bool,
) -> Result<Vec<f32>, QuantizeError> {
    let part = Part {
        embedding: true,
        layers: 0..0,
        head: false,
    };
    let config = &checkpoint.config;
    let mut stage = Stage::new(executor, config, part, samples, first, &float).await?;
    stage
        .write_embedding(float_rows(checkpoint, quantized))
        .await?;
    stage.embed().await
}

/// Reads rows of a matrix; those of the embedding as INT8 would give them where `quantized`.
fn float_rows(
    checkpoint: &Checkpoint,
    quantized: bool,
) -> impl AsyncFn(&str, u32, u32, u32) -> Result<Vec<f32>, QuantizeError> + '_ {
    async move |name: &str, features: u32, first: u32, rows: u32| {
        let features = u64::from(features);
        let mut values = checkpoint
            .read_f32(
                &format!("{name}.weight"),
                u64::from(first) * features,
                (u64::from(rows) * features) as usize,
            )
            .await?;
        if quantized && name == checkpoint.config.tables()[0] {
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
    }
}

fn float(_: &str) -> LinearSpec {
    LinearSpec {
        format: WeightFormat::F32,
        input: Input::Float,
    }
}

async fn layer_stage<'a>(
    executor: &'a mut Executor,
    config: &ModelConfig,
    layer: u32,
    samples: &'a Samples,
    first: usize,
    spec: &dyn Fn(&str) -> LinearSpec,
) -> Result<Stage<'a>, QuantizeError> {
    Stage::new(executor, config, layer_part(layer), samples, first, spec).await
}

fn layer_part(layer: u32) -> Part {
    Part {
        embedding: false,
        layers: layer..layer + 1,
        head: false,
    }
}
