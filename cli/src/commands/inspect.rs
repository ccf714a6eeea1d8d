//! `plateau inspect`: what is in a model.

use crate::args::Inspect;
use crate::console::{bytes, print, print_json};
use crate::load;
use anyhow::Result;
use plateau::checkpoint::{Checkpoint, LinearFormat, ModelConfig, QuantizationConfig};
use plateau::session::{LoadOptions, memory_needed};
use plateau::tensor::{Bits, Granularity};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Serialize)]
struct Model<'a> {
    model: String,
    architecture: &'static str,
    parameters: u64,
    format: String,
    config: Config,
    quantization: Option<Quantization<'a>>,
    memory: Memory,
    tensor_bytes: u64,
    tensors: Vec<Tensor<'a>>,
}

/// The sizes, under the names of `config.json`.
#[derive(Serialize)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: u32,
    head_dim: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    /// The narrowest layer's.
    sliding_window: Option<u32>,
    tie_word_embeddings: bool,
}

#[derive(Serialize)]
struct Quantization<'a> {
    version: u32,
    recipe: &'a str,
    default: Format,
    overrides: BTreeMap<&'a str, Format>,
    /// Linears of each format, by its label.
    linears: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Format {
    weight_bits: u32,
    weight_scale: &'static str,
    group_size: u32,
    activation_bits: Option<u32>,
    activation_scale: &'static str,
}

/// Bytes of device memory.
#[derive(Serialize)]
struct Memory {
    context_size: u32,
    kv_type: &'static str,
    weights: u64,
    kv_cache: u64,
    scratch: u64,
    total: u64,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [u64],
    bytes: u64,
    file: &'a str,
}

pub async fn run(args: &Inspect) -> Result<()> {
    let model = args.folder.as_deref().or(args.model.model.as_deref());
    let checkpoint = load::checkpoint(model).await?;
    let options = load::options(&args.format, args.ctx_size)?;
    let model = describe(&checkpoint, &options)?;
    if args.json {
        print_json(&model)?
    } else {
        print(&text(&model))?
    }
    Ok(())
}

fn describe<'a>(checkpoint: &'a Checkpoint, options: &LoadOptions) -> Result<Model<'a>> {
    let memory = memory_needed(checkpoint, options, None)?;
    let tensors = checkpoint.tensors.iter().map(|(name, tensor)| Tensor {
        name,
        dtype: tensor.dtype.name(),
        shape: &tensor.shape,
        bytes: tensor.bytes,
        file: checkpoint.file_of(tensor),
    });
    Ok(Model {
        model: checkpoint.folder.name(),
        architecture: checkpoint.config.family.name(),
        parameters: load::parameters(&checkpoint.config),
        format: load::format_label(checkpoint, options.quant),
        config: config(&checkpoint.config),
        quantization: checkpoint
            .quantization
            .as_ref()
            .map(|quantization| Quantization {
                version: quantization.version,
                recipe: &quantization.recipe,
                default: format(&quantization.default),
                overrides: quantization
                    .overrides
                    .iter()
                    .map(|(name, of)| (name.as_str(), format(of)))
                    .collect(),
                linears: formats(&checkpoint.config, quantization),
            }),
        memory: Memory {
            context_size: load::context_size(&checkpoint.config, options),
            kv_type: options.kv_type.name(),
            weights: memory.weights,
            kv_cache: memory.kv_cache,
            scratch: memory.scratch,
            total: memory.total(),
        },
        tensor_bytes: checkpoint.tensors.values().map(|tensor| tensor.bytes).sum(),
        tensors: tensors.collect(),
    })
}

fn config(config: &ModelConfig) -> Config {
    Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.max_position_embeddings,
        sliding_window: config.windows.iter().copied().flatten().min(),
        tie_word_embeddings: config.tie_word_embeddings,
    }
}

fn formats(config: &ModelConfig, quantization: &QuantizationConfig) -> BTreeMap<String, usize> {
    let mut formats = BTreeMap::new();
    for linear in config.linears() {
        let label = load::linear_format_label(&quantization.format(&linear.name));
        *formats.entry(label).or_insert(0) += 1;
    }
    formats
}

fn format(format: &LinearFormat) -> Format {
    Format {
        weight_bits: format.weight_bits.count(),
        weight_scale: match format.weight_scale {
            Granularity::PerChannel => "per_channel",
            Granularity::PerTensor => "per_tensor",
        },
        group_size: format.group_size,
        activation_bits: format.activations.bits().map(Bits::count),
        activation_scale: format.activations.name(),
    }
}

/// For people. Writing to a String cannot fail.
fn text(model: &Model) -> String {
    let mut text = String::new();
    let config = &model.config;
    let window = config
        .sliding_window
        .map_or(String::new(), |window| format!(", sliding window {window}"));
    let tied = if config.tie_word_embeddings {
        "tied"
    } else {
        "not tied"
    };
    let quantization = model.quantization.as_ref().map_or_else(
        || format!("{} (as loaded; the file is a float model)", model.format),
        |quantization| {
            let activations = match quantization.default.activation_scale {
                "float" => "float activations".to_owned(),
                scale => format!("{scale} activation scales"),
            };
            let counts = quantization.linears.iter();
            let counts: Vec<String> = counts
                .map(|(label, linears)| format!("{linears} in {label}"))
                .collect();
            let others = match counts.len() {
                0 | 1 => String::new(),
                _ => format!(", {}", counts.join(", ")),
            };
            format!(
                "{} ({}), {} weight scales, {activations}{others}",
                model.format, quantization.recipe, quantization.default.weight_scale,
            )
        },
    );
    let memory = &model.memory;
    let lines = [
        ("model", model.model.clone()),
        ("architecture", model.architecture.to_owned()),
        ("parameters", model.parameters.to_string()),
        ("layers", config.num_hidden_layers.to_string()),
        (
            "hidden size",
            format!("{}, MLP {}", config.hidden_size, config.intermediate_size),
        ),
        (
            "heads",
            format!(
                "{} of {}, {} key/value heads",
                config.num_attention_heads, config.head_dim, config.num_key_value_heads
            ),
        ),
        (
            "vocabulary",
            format!("{}, embedding and head {tied}", config.vocab_size),
        ),
        (
            "context",
            format!("{}{window}", config.max_position_embeddings),
        ),
        ("linears", quantization),
        (
            "memory",
            format!(
                "{} for {} tokens: weights {}, KV cache in {} {}, scratch {}",
                bytes(memory.total),
                memory.context_size,
                bytes(memory.weights),
                memory.kv_type,
                bytes(memory.kv_cache),
                bytes(memory.scratch)
            ),
        ),
        (
            "tensors",
            format!("{}, {}", model.tensors.len(), bytes(model.tensor_bytes)),
        ),
    ];
    for (label, value) in lines {
        let _ = writeln!(text, "{label:<13} {value}");
    }
    let width = model
        .tensors
        .iter()
        .map(|tensor| tensor.name.len())
        .max()
        .unwrap_or(0);
    for tensor in &model.tensors {
        let shape = tensor
            .shape
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(
            text,
            "  {:<width$}  {:<4}  {:>10}  [{shape}]",
            tensor.name,
            tensor.dtype,
            bytes(tensor.bytes)
        );
    }
    text
}
