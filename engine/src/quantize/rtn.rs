//! Round to nearest: each weight on its own, no calibration. The baseline of every other recipe.

use crate::checkpoint::{
    ActivationScale, Checkpoint, CheckpointWriter, CopyError, DEFAULT_SHARD_BYTES, Dtype,
    LinearFormat, LinearShape, LoadError, NewTensor, QuantizationConfig, WriteError, copy_beside,
};
use crate::session::LoadProgress;
use crate::tensor::{Bits, Granularity};
use std::path::Path;

/// The recipe's name in `quantization_config`.
const RECIPE: &str = "round to nearest";
/// Weights in memory at a time, in elements: with a row at least.
const CHUNK_ELEMENTS: u64 = 1 << 20;
/// Largest multiplier of a group.
const MAX_MULTIPLIER: u32 = 16;
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
        in_features: checkpoint.config.hidden_size,
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
            absmax = absmax.max(row_absmax(&read(first, rows).await?));
        }
        tensor_scale = Some(scale_of(absmax, format));
    }

    let (qweight, scale_name) = (format!("{name}.qweight"), format!("{name}.scales"));
    let mut scales = Vec::new();
    let mut multipliers = Vec::new();
    for (first, rows) in chunks() {
        let values = read(first, rows).await?;
        for row in values.chunks_exact(*in_features as usize) {
            let scale = tensor_scale.unwrap_or_else(|| scale_of(row_absmax(row), format));
            let quantized = quantize_row(row, scale, format);
            writer.append_words(&qweight, &quantized.words)?;
            multipliers.extend(quantized.multipliers);
            scales.push(scale);
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

// The rows below are to come from `plateau_shaders::pack`, which is the place where bits are moved; the definition is the same.

/// A row's words, and the words of its multipliers.
struct QuantizedRow {
    words: Vec<u32>,
    multipliers: Vec<u32>,
}

fn row_absmax(row: &[f32]) -> f32 {
    row.iter()
        .fold(0.0, |absmax, value| absmax.max(value.abs()))
}

/// The scale that lets the largest weight be q_max, with groups q_max times the largest multiplier. 0 for a row of zeros (or
/// of numbers so small that the scale would be subnormal, which a GPU may take for 0): all its integers are then 0.
fn scale_of(absmax: f32, format: LinearFormat) -> f32 {
    let steps = format.weight_bits.q_max()
        * if format.group_size > 0 {
            MAX_MULTIPLIER
        } else {
            1
        };
    let scale = absmax / steps as f32;
    if scale.is_normal() { scale } else { 0.0 }
}

/// `w = clamp(round(x / (scale * m)), ±q_max)`, ties to even, with `m = clamp(ceil(group's absmax / (q_max * scale)), 1, 16)`;
/// m = 1 without groups. In f64, so that the quotient of a weight that is a multiple of the step is exact.
fn quantize_row(row: &[f32], scale: f32, format: LinearFormat) -> QuantizedRow {
    let q_max = f64::from(format.weight_bits.q_max());
    let group_size = if format.group_size > 0 {
        format.group_size as usize
    } else {
        row.len()
    };
    let mut integers = vec![0_i8; plateau_shaders::padded(row.len() as u32) as usize];
    let mut multipliers = vec![0; format.multiplier_words(row.len() as u32) as usize];
    for (g, group) in row.chunks(group_size).enumerate() {
        if scale == 0.0 {
            continue;
        }
        let mut step = f64::from(scale);
        if format.group_size > 0 {
            // At most 16 but for the rounding of the scale.
            let needed = f64::from(row_absmax(group)) / (q_max * step);
            let multiplier = needed.ceil().clamp(1.0, f64::from(MAX_MULTIPLIER));
            step *= multiplier;
            multipliers[g / 8] |= (multiplier as u32 - 1) << (4 * (g % 8));
        }
        for (value, integer) in group.iter().zip(&mut integers[g * group_size..]) {
            *integer = (f64::from(*value) / step)
                .round_ties_even()
                .clamp(-q_max, q_max) as i8;
        }
    }
    let words = match format.weight_bits {
        Bits::Int8 => integers.chunks_exact(4).map(pack_bytes).collect(),
        Bits::Int4 => integers.chunks_exact(8).map(pack_nibbles).collect(),
    };
    QuantizedRow { words, multipliers }
}

fn pack_bytes(bytes: &[i8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u32::from(byte as u8))
}

/// Offset binary: feature b in the low nibble of byte b, feature 4 + b in its high one.
fn pack_nibbles(integers: &[i8]) -> u32 {
    let nibble = |integer: i8| (i32::from(integer) + 8) as u32;
    (0..4).fold(0, |word, b| {
        word | nibble(integers[b]) << (8 * b) | nibble(integers[b + 4]) << (8 * b + 4)
    })
}
