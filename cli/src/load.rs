//! From what was typed to a loaded model.

use crate::args::{DeviceArg, FormatArgs, LoadArgs};
use crate::console::{Console, Unit, bytes, stderr_line};
use crate::exit::usage;
use anyhow::Result;
use plateau::checkpoint::{Checkpoint, Folder, LinearFormat, ModelConfig, QuantizationConfig};
use plateau::exec::{self, DeviceChoice, Executor, Opened};
use plateau::session::{LoadOptions, MemoryNeeded, Session, SessionError, memory_needed};
use plateau::tensor::{Bits, Granularity, KvType, Quant};
use plateau::tokenizer::Tokenizer;
use std::collections::BTreeSet;
use std::path::Path;

/// Tokens per sequence where neither the model nor the user asks for fewer: what `LoadOptions::context_size` says.
const DEFAULT_CONTEXT: u32 = 4096;

/// The model's folder: the built-in one without a name.
pub fn folder(model: Option<&str>) -> Result<Folder> {
    Ok(match model {
        None => Folder::builtin(),
        Some("") => {
            return Err(usage(
                "--model is empty: a folder or owner/name is expected",
            ));
        }
        Some(name) => Folder::resolve(name)?,
    })
}

/// The headers of the model: enough to check what was typed before any weight is read.
pub async fn checkpoint(model: Option<&str>) -> Result<Checkpoint> {
    Ok(Checkpoint::open(folder(model)?).await?)
}

/// The model's tokenizer, which may not make ids that the model has no row for.
pub async fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::load(&checkpoint.folder).await?;
    tokenizer.check_vocab(&checkpoint.config)?;
    Ok(tokenizer)
}

pub fn options(format: &FormatArgs, context_size: Option<u32>) -> Result<LoadOptions> {
    let kv_type = format.kv_type.first().copied().unwrap_or_default();
    if format.kv_type.iter().any(|&other| other != kv_type) {
        return Err(usage("keys and values have one type here: two were given"));
    }
    Ok(LoadOptions {
        quant: format.quant,
        weight_scale: if format.per_tensor {
            Granularity::PerTensor
        } else {
            Granularity::PerChannel
        },
        kv_type,
        context_size,
        ..LoadOptions::default()
    })
}

/// Opens the device and says which it is. That no GPU could be used is said even with -q: it is slow, and nobody asked
/// for it.
pub async fn open(device: &DeviceArg, console: &Console) -> Result<Opened> {
    let opened = exec::open_with(&device.device, device.choices()).await?;
    if device.device == DeviceChoice::Auto && opened.executor.adapter().is_none() {
        stderr_line(&opened.notice);
    } else {
        console.note(&opened.notice);
    }
    Ok(opened)
}

/// Loads a model whose headers were read; says on which device, and how much memory it takes before any is taken.
pub async fn session(
    checkpoint: &Checkpoint,
    args: &LoadArgs,
    options: &LoadOptions,
    console: &Console,
) -> Result<Session> {
    let opened = open(&args.device, console).await?;
    console.note(model_line(checkpoint, options, &opened.executor)?);
    upload(checkpoint, opened, options, console).await
}

/// Which model, in which format, and the memory that it takes.
pub fn model_line(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    executor: &Executor,
) -> Result<String> {
    let memory = memory_needed(checkpoint, options, Some(executor))?;
    Ok(format!(
        "model: {}, {}, {}",
        checkpoint.folder.name(),
        format_label(checkpoint, options.quant),
        memory_label(memory, options.kv_type),
    ))
}

/// Loads a model on an opened device.
pub async fn upload(
    checkpoint: &Checkpoint,
    opened: Opened,
    options: &LoadOptions,
    console: &Console,
) -> Result<Session> {
    let progress = console.progress("loading", 0, Unit::Bytes);
    Ok(
        Session::load(checkpoint, opened.executor, options, &mut |now| {
            progress.load(now)
        })
        .await?,
    )
}

/// Tokens that will fit one sequence.
pub fn context_size(config: &ModelConfig, options: &LoadOptions) -> u32 {
    options
        .context_size
        .unwrap_or(DEFAULT_CONTEXT)
        .min(config.max_position_embeddings)
}

/// The session says the same, but only after the weights are loaded.
pub fn check_length(tokens: usize, config: &ModelConfig, options: &LoadOptions) -> Result<()> {
    let limit = context_size(config, options);
    if tokens > limit as usize {
        return Err(SessionError::PromptTooLong {
            found: tokens,
            limit,
        }
        .into());
    }
    Ok(())
}

/// As [`check_length`], for ids that a user typed.
pub fn check_ids(ids: &[u32], config: &ModelConfig) -> Result<()> {
    let vocab = config.vocab_size;
    match ids.iter().position(|&id| id >= vocab) {
        Some(index) => Err(SessionError::UnknownToken {
            index,
            found: ids[index],
            vocab,
        }
        .into()),
        None => Ok(()),
    }
}

/// `w4a8`, with the group size where there are groups. Float activations are `a16`, as methods that have them are called.
pub fn linear_format_label(format: &LinearFormat) -> String {
    let activation_bits = format.activations.bits().map_or(16, Bits::count);
    let mut label = format!("w{}a{activation_bits}", format.weight_bits.count());
    if format.group_size > 0 {
        label.push_str(&format!("g{}", format.group_size));
    }
    label
}

/// The label of the one format, or the bits of several: `w4a8+w6a8`.
fn quantization_label(quantization: &QuantizationConfig) -> String {
    if quantization.overrides.is_empty() {
        return linear_format_label(&quantization.default);
    }
    let formats = std::iter::once(&quantization.default).chain(quantization.overrides.values());
    let bits = formats.map(|format| {
        let group_size = 0;
        linear_format_label(&LinearFormat {
            group_size,
            ..*format
        })
    });
    let bits: Vec<String> = BTreeSet::from_iter(bits).into_iter().collect();
    bits.join("+")
}

/// How the decoder's linears are stored and computed.
pub fn format_label(checkpoint: &Checkpoint, quant: Option<Quant>) -> String {
    match &checkpoint.quantization {
        Some(quantization) => quantization_label(quantization),
        None => quant.unwrap_or(Quant::F16).name().to_owned(),
    }
}

fn memory_label(memory: MemoryNeeded, kv_type: KvType) -> String {
    format!(
        "{} of device memory (weights {}, KV cache in {kv_type} {}, scratch {})",
        bytes(memory.total()),
        bytes(memory.weights),
        bytes(memory.kv_cache),
        bytes(memory.scratch)
    )
}

/// The last part of a model's path or name.
pub fn short_name(folder: &Folder) -> String {
    let name = folder.name();
    Path::new(&name)
        .file_name()
        .map_or_else(|| name.clone(), |last| last.to_string_lossy().into_owned())
}

/// Number of weights, embedding and head included (tied: once), from shapes alone.
pub fn parameters(config: &ModelConfig) -> u64 {
    let table = u64::from(config.vocab_size) * u64::from(config.embedding_size());
    let linears = config.linears().into_iter().map(|linear| {
        let bias = if linear.bias {
            u64::from(linear.out_features)
        } else {
            0
        };
        u64::from(linear.in_features) * u64::from(linear.out_features) + bias
    });
    let norms = config.norms().into_iter().map(|(_, len)| u64::from(len));
    let floats = config.float_matrices().into_iter();
    let floats = floats.map(|(_, [rows, columns])| u64::from(rows) * u64::from(columns));
    let tables = config.tables().len() as u64 * table;
    linears.chain(norms).chain(floats).sum::<u64>() + tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;
    use plateau::checkpoint::ActivationFormat;
    use plateau::tensor::WeightBits;

    fn format() -> FormatArgs {
        FormatArgs {
            quant: None,
            per_tensor: false,
            kv_type: Vec::new(),
        }
    }

    #[test]
    fn keys_and_values_have_one_type() {
        let two = FormatArgs {
            kv_type: vec![KvType::F32, KvType::F16],
            ..format()
        };
        assert!(options(&two, None).is_err());
        let same = FormatArgs {
            kv_type: vec![KvType::F32, KvType::F32],
            ..format()
        };
        assert_eq!(
            options(&same, None).map(|options| options.kv_type).ok(),
            Some(KvType::F32)
        );
        assert_eq!(
            options(&format(), None).map(|options| options.kv_type).ok(),
            Some(KvType::F16)
        );
    }

    #[test]
    fn the_context_is_bounded_by_the_model() {
        let config = shape::tinyllama_1_1b();
        let context = |context_size| context_size_of(&config, context_size);
        assert_eq!(context(None), 2048);
        assert_eq!(context(Some(64)), 64);
        let limited = options(&format(), Some(64)).expect("valid");
        assert!(check_length(64, &config, &limited).is_ok());
        assert!(check_length(65, &config, &limited).is_err());
    }

    fn context_size_of(config: &ModelConfig, asked: Option<u32>) -> u32 {
        context_size(config, &options(&format(), asked).expect("valid"))
    }

    #[test]
    fn parameters_are_those_of_the_model_cards() {
        assert_eq!(parameters(&shape::tinyllama_1_1b()), 1_100_048_384);
        assert_eq!(parameters(&shape::opt(2048, 24)), 1_315_758_080);
        assert_eq!(parameters(&shape::llama2_7b()), 6_738_415_616);
        assert_eq!(parameters(&shape::llama3_1_8b()), 8_030_261_248);
    }

    #[test]
    fn a_format_is_named_by_its_bits_and_groups() {
        let format = LinearFormat {
            weight_bits: WeightBits::Int4,
            weight_scale: Granularity::PerChannel,
            group_size: 64,
            activations: ActivationFormat::Dynamic(Bits::Int8),
        };
        let float = LinearFormat {
            activations: ActivationFormat::Float,
            ..format
        };
        assert_eq!(linear_format_label(&float), "w4a16g64");
        assert_eq!(linear_format_label(&format), "w4a8g64");
        assert_eq!(
            linear_format_label(&LinearFormat {
                group_size: 0,
                ..format
            }),
            "w4a8"
        );
        let mut mixed = QuantizationConfig::new("a recipe", format);
        assert_eq!(quantization_label(&mixed), "w4a8g64");
        for (name, weight_bits) in [("a", WeightBits::Int6), ("b", WeightBits::Int5)] {
            let other = LinearFormat {
                weight_bits,
                group_size: 0,
                ..format
            };
            mixed.overrides.insert(name.to_owned(), other);
        }
        assert_eq!(quantization_label(&mixed), "w4a8+w5a8+w6a8");
    }
}
