//! Round to nearest: each weight on its own, no calibration. The baseline of every other recipe.

use crate::checkpoint::{
    ActivationScale, Checkpoint, CheckpointWriter, CopyError, DEFAULT_SHARD_BYTES, Dtype,
    LinearFormat, LinearShape, LoadError, NewTensor, QuantizationConfig, WriteError, copy_beside,
};
use crate::session::LoadProgress;
use crate::tensor::{Bits, Granularity};
use plateau_shaders::pack;
use rayon::prelude::*;
use std::path::Path;

/// The recipe's name in `quantization_config`.
const RECIPE: &str = "round to nearest";
/// Weights in memory at a time, in elements: with a row at least.
const CHUNK_ELEMENTS: u64 = 1 << 20;
/// Bytes in memory at a time of a tensor that is copied.
const COPY_BYTES: u64 = 4 << 20;
/// The embedding and the head.
const TABLE_FORMAT: LinearFormat = LinearFormat {
    weight_bits: Bits::Int8,
    weight_scale: Granularity::PerChannel,
    group_size: 0,
    activation_bits: Bits::Int8,
    activation_scale: ActivationScale::Dynamic,
};

/// Why a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{folder}: quantized already ({recipe}); quantizing needs the float model")]
    AlreadyQuantized { folder: String, recipe: String },
    #[error("static activation scales need calibration; rounding to nearest has none")]
    NeedsCalibration,
    #[error(transparent)]
    Device(#[from] crate::exec::DeviceError),
    #[error("{rest} bytes go to embedding, head and norms; of the rest, {source}")]
    OverBudget {
        rest: u64,
        source: super::bit_width::OverBudget,
    },
    #[error("{linear}: {source}")]
    Gptq {
        linear: String,
        source: super::gptq::GptqError,
    },
}

impl From<CopyError> for QuantizeError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Load(error) => Self::Load(error),
            CopyError::Write(error) => Self::Write(error),
        }
    }
}

/// Writes into `out_dir` the float model `checkpoint` with its linears in `format`, and embedding and head in INT8 per row.
/// `progress` counts bytes of float weights. The same model makes the same bytes.
pub async fn round_to_nearest(
    checkpoint: &Checkpoint,
    out_dir: &Path,
    format: LinearFormat,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<(), QuantizeError> {
    round_to_nearest_in_shards(checkpoint, out_dir, format, DEFAULT_SHARD_BYTES, progress).await
}

/// [`round_to_nearest`] with the size of a shard.
pub async fn round_to_nearest_in_shards(
    checkpoint: &Checkpoint,
    out_dir: &Path,
    format: LinearFormat,
    shard_bytes: u64,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<(), QuantizeError> {
    if let Some(quantization) = &checkpoint.quantization {
        let recipe = quantization.recipe.clone();
        return Err(QuantizeError::AlreadyQuantized {
            folder: checkpoint.folder.name(),
            recipe,
        });
    }
    if format.activation_scale == ActivationScale::Static {
        return Err(QuantizeError::NeedsCalibration);
    }
    let quantization = QuantizationConfig::new(RECIPE, format);
    let config = checkpoint.config_with(&quantization).await?;

    // [vocab, hidden] tables, then the decoder's linears: all that has two dimensions.
    let tables = checkpoint.config.tables().iter().map(|&name| LinearShape {
        name: name.to_owned(),
        in_features: checkpoint.config.embedding_size(),
        out_features: checkpoint.config.vocab_size,
        bias: false,
    });
    let mut weights: Vec<(LinearShape, LinearFormat)> =
        tables.map(|table| (table, TABLE_FORMAT)).collect();
    weights.extend(
        checkpoint
            .config
            .linears()
            .into_iter()
            .map(|linear| (linear, format)),
    );
    let norms = checkpoint.config.norms();

    let mut tensors: Vec<NewTensor> = weights
        .iter()
        .flat_map(|(linear, format)| new_tensors(linear, *format))
        .collect();
    tensors.extend(
        norms
            .iter()
            .map(|(name, len)| tensor(name, Dtype::F32, &[*len])),
    );
    let mut floats = Vec::new();
    for (name, shape) in checkpoint.config.float_matrices() {
        let name = format!("{name}.weight");
        let info = checkpoint.expect_float(&name, &shape.map(u64::from))?;
        floats.push((name.clone(), info.bytes));
        tensors.push(tensor(&name, info.dtype, &shape));
    }
    let mut writer = CheckpointWriter::create(out_dir, tensors, shard_bytes)?;

    let mut steps = Steps {
        checkpoint,
        done: 0,
        total: 0,
        progress,
    };
    steps.total = weights
        .iter()
        .map(|(linear, _)| steps.bytes_of(&format!("{}.weight", linear.name)))
        .sum();
    for (linear, format) in &weights {
        write_linear(&mut steps, &mut writer, linear, *format).await?;
    }
    for (name, len) in &norms {
        writer.append_f32(name, &checkpoint.read_f32(name, 0, *len as usize).await?)?;
    }
    for (name, bytes) in &floats {
        copy_tensor(checkpoint, &mut writer, name, *bytes).await?;
    }
    copy_beside(&checkpoint.folder, out_dir).await?;
    writer.finish(&config)?;
    Ok(())
}

/// Reading rows, with what the progress bar is told.
struct Steps<'a> {
    checkpoint: &'a Checkpoint,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Steps<'_> {
    fn bytes_of(&self, name: &str) -> u64 {
        self.checkpoint
            .tensors
            .get(name)
            .map_or(0, |info| info.bytes)
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(LoadProgress {
            done: self.done,
            total: self.total,
        });
    }
}

fn tensor(name: &str, dtype: Dtype, shape: &[u32]) -> NewTensor {
    NewTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.iter().copied().map(u64::from).collect(),
    }
}

/// The tensors of a linear, in the order in which [`write_linear`] has them ready.
fn new_tensors(linear: &LinearShape, format: LinearFormat) -> Vec<NewTensor> {
    let LinearShape {
        name,
        in_features,
        out_features,
        bias,
    } = linear;
    let mut tensors = vec![
        tensor(
            &format!("{name}.qweight"),
            Dtype::U32,
            &[*out_features, format.row_words(*in_features)],
        ),
        tensor(
            &format!("{name}.scales"),
            Dtype::F32,
            &[format.num_scales(*out_features)],
        ),
    ];
    if format.group_size > 0 {
        let shape = [*out_features, format.multiplier_words(*in_features)];
        tensors.push(tensor(&format!("{name}.multipliers"), Dtype::U32, &shape));
    }
    if *bias {
        tensors.push(tensor(
            &format!("{name}.bias"),
            Dtype::F32,
            &[*out_features],
        ));
    }
    tensors
}

/// A tensor as it is, in chunks.
pub(super) async fn copy_tensor(
    checkpoint: &Checkpoint,
    writer: &mut CheckpointWriter,
    name: &str,
    bytes: u64,
) -> Result<(), QuantizeError> {
    let mut offset = 0;
    while offset < bytes {
        let mut chunk = vec![0; COPY_BYTES.min(bytes - offset) as usize];
        checkpoint.read(name, offset, &mut chunk).await?;
        writer.append(name, &chunk)?;
        offset += chunk.len() as u64;
    }
    Ok(())
}

async fn write_linear(
    steps: &mut Steps<'_>,
    writer: &mut CheckpointWriter,
    linear: &LinearShape,
    format: LinearFormat,
) -> Result<(), QuantizeError> {
    let LinearShape {
        name,
        in_features,
        out_features,
        bias,
    } = linear;
    let checkpoint = steps.checkpoint;
    let weight = format!("{name}.weight");
    let row_bytes = steps.bytes_of(&weight) / u64::from(*out_features);
    let chunk_rows = (CHUNK_ELEMENTS / u64::from(*in_features)).max(1);
    let num_rows = u64::from(*out_features);
    let chunks = || {
        (0..num_rows)
            .step_by(chunk_rows as usize)
            .map(|first| (first, chunk_rows.min(num_rows - first)))
    };
    let read = async |first: u64, rows: u64| {
        let in_features = u64::from(*in_features);
        // At most CHUNK_ELEMENTS, or one row.
        checkpoint
            .read_f32(&weight, first * in_features, (rows * in_features) as usize)
            .await
    };

    // One scale for the tensor needs a pass over it.
    let mut tensor_scale = None;
    if format.weight_scale == Granularity::PerTensor {
        let mut absmax = 0.0_f32;
        for (first, rows) in chunks() {
            absmax = absmax.max(pack::absmax(&read(first, rows).await?));
        }
        tensor_scale = Some(scale_of(absmax, format));
    }

    let (qweight, scale_name) = (format!("{name}.qweight"), format!("{name}.scales"));
    let mut scales = Vec::new();
    let mut multipliers = Vec::new();
    for (first, rows) in chunks() {
        let values = read(first, rows).await?;
        let quantized: Vec<QuantizedRow> = values
            .par_chunks_exact(*in_features as usize)
            .map(|row| quantize_row(row, format, tensor_scale))
            .collect();
        for row in quantized {
            writer.append_words(&qweight, &row.words)?;
            multipliers.extend(row.multipliers);
            scales.push(row.scale);
        }
        steps.advance(rows * row_bytes);
    }
    scales.truncate(format.num_scales(*out_features) as usize);
    writer.append_f32(&scale_name, &scales)?;
    writer.append_words(&format!("{name}.multipliers"), &multipliers)?;
    if *bias {
        let bias = steps
            .checkpoint
            .read_f32(&format!("{name}.bias"), 0, *out_features as usize)
            .await?;
        writer.append_f32(&format!("{name}.bias"), &bias)?;
    }
    Ok(())
}

/// A row's words, and what belongs to them.
struct QuantizedRow {
    words: Vec<u32>,
    scale: f32,
    multipliers: Vec<u32>,
}

/// One row in the format's layout; `scale` is that of the whole tensor, where there is one.
fn quantize_row(row: &[f32], format: LinearFormat, scale: Option<f32>) -> QuantizedRow {
    let scale = scale.unwrap_or_else(|| scale_of(pack::absmax(row), format));
    let (words, multipliers) = match format.weight_bits {
        Bits::Int8 => (pack::quantize_row_i8_with_scale(row, scale), Vec::new()),
        Bits::Int4 => pack::quantize_row_i4_with_scale(row, format.group_size as usize, scale),
    };
    QuantizedRow {
        words,
        scale,
        multipliers,
    }
}

fn scale_of(absmax: f32, format: LinearFormat) -> f32 {
    match format.weight_bits {
        Bits::Int8 => pack::scale_i8(absmax),
        Bits::Int4 => pack::scale_i4(absmax, format.group_size as usize),
    }
}
