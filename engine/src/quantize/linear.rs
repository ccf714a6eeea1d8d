//! One linear: how it is stored, and its weights as integers.

use super::flatten::FlatMap;
use super::gptq::{Factor, gptq};
use super::grid::{ClipSearch, Grid, GridConfig};
use crate::checkpoint::{
    ActivationFormat, CheckpointWriter, Dtype, LinearFormat, LinearShape, NewTensor, WriteError,
};
use crate::model::LinearSpec;
use crate::ops::StaticInput;
use crate::tensor::{Bits, Granularity, WeightBits};
use plateau_shaders::pack;
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;

/// A static scale with its map, which linears that share an input may share.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatInput {
    pub scale: f32,
    pub map: FlatMap,
}

/// How a linear will be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearPlan {
    pub shape: LinearShape,
    pub format: LinearFormat,
    /// Where the format's activations are static.
    pub input: Option<Arc<FlatInput>>,
}

impl LinearPlan {
    /// Columns of the stored weight.
    pub fn flat_features(&self) -> u32 {
        let flat = self
            .input
            .as_ref()
            .map(|input| input.map.flat_features() as u32);
        flat.unwrap_or(self.shape.in_features)
    }

    /// Channels beyond the linear's own.
    pub fn added_channels(&self) -> u32 {
        self.flat_features() - self.shape.in_features
    }

    /// Multiply-accumulates for a token, before flattening.
    pub fn macs(&self) -> u64 {
        u64::from(self.shape.in_features) * u64::from(self.shape.out_features)
    }

    /// As the runtime declares it.
    pub fn spec(&self) -> LinearSpec {
        let bits = self.format.activations.bits();
        let input = self.input.as_ref().zip(bits);
        let input = input.map(|(input, bits)| StaticInput {
            bits,
            scale: input.scale,
            map: [input.map.x_parts(), input.map.words()].concat().into(),
            flat_features: input.map.flat_features() as u32,
        });
        LinearSpec::stored(self.format, input)
    }

    /// The tensors, in the order in which [`LinearPlan::write`] writes them.
    pub fn tensors(&self) -> Vec<NewTensor> {
        let LinearShape {
            name,
            in_features,
            out_features,
            bias,
        } = &self.shape;
        let flat = self.flat_features();
        let tensor = |suffix: &str, dtype: Dtype, shape: &[u32]| NewTensor {
            name: format!("{name}.{suffix}"),
            dtype,
            shape: shape.iter().copied().map(u64::from).collect(),
        };
        let words = self.format.row_words(flat);
        let mut tensors = vec![tensor("qweight", Dtype::U32, &[*out_features, words])];
        if self.format.weight_bits.high_bits() > 0 {
            let words = self.format.high_row_words(flat);
            tensors.push(tensor("qweight_high", Dtype::U32, &[*out_features, words]));
        }
        let scales = self.format.num_scales(*out_features);
        tensors.push(tensor("scales", Dtype::F32, &[scales]));
        if self.format.group_size > 0 {
            let words = self.format.multiplier_words(flat);
            tensors.push(tensor("multipliers", Dtype::U32, &[*out_features, words]));
        }
        if *bias {
            tensors.push(tensor("bias", Dtype::F32, &[*out_features]));
        }
        if let ActivationFormat::Static(_) = self.format.activations {
            tensors.push(tensor("input_scale", Dtype::F32, &[1]));
            tensors.push(tensor("flatten_map", Dtype::U32, &[flat - in_features]));
            tensors.push(tensor("flatten_index", Dtype::U32, &[*in_features, 2]));
        }
        tensors
    }

    /// Bytes of the tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors().iter().map(NewTensor::bytes).sum()
    }

    pub fn write(
        &self,
        writer: &mut CheckpointWriter,
        weights: &QuantizedLinear,
    ) -> Result<(), WriteError> {
        let name = |suffix: &str| format!("{}.{suffix}", self.shape.name);
        let (words, high) = self.stored_words(weights);
        writer.append_words(&name("qweight"), &words)?;
        writer.append_words(&name("qweight_high"), &high)?;
        writer.append_f32(&name("scales"), &weights.scales)?;
        writer.append_words(&name("multipliers"), &weights.multipliers)?;
        writer.append_f32(&name("bias"), &weights.bias)?;
        if let Some(input) = &self.input {
            writer.append_f32(&name("input_scale"), &[input.scale])?;
            writer.append_words(&name("flatten_map"), input.map.words())?;
            writer.append_words(&name("flatten_index"), input.map.index())?;
        }
        Ok(())
    }

    /// The integers as the checkpoint has them: those of INT5 and INT6 in two planes.
    fn stored_words<'a>(&self, weights: &'a QuantizedLinear) -> (Cow<'a, [u32]>, Vec<u32>) {
        let high_bits = self.format.weight_bits.high_bits() as usize;
        if high_bits == 0 {
            return (Cow::Borrowed(&weights.words), Vec::new());
        }
        let features = self.flat_features() as usize;
        let mut row = vec![0; features];
        let (mut nibbles, mut high) = (Vec::new(), Vec::new());
        for words in weights.words.chunks_exact(pack::i8_row_words(features)) {
            pack::unpack_i8(words, &mut row);
            let planes = pack::pack_planes(&row, high_bits);
            nibbles.extend(planes.0);
            high.extend(planes.1);
        }
        (Cow::Owned(nibbles), high)
    }

    /// The columns of `weights` [out, in] on the flat channels: [out, flat].
    pub fn flat_weights(&self, weights: &[f32]) -> Vec<f32> {
        match &self.input {
            None => weights.to_vec(),
            Some(input) => weights
                .par_chunks_exact(self.shape.in_features as usize)
                .flat_map_iter(|row| input.map.flatten_weights(row))
                .collect(),
        }
    }

    /// Integers for `flat` weights [out, flat]: by GPTQ with a factor of the Hessian of the flat inputs, whose diagonal is
    /// `importance`; otherwise rounded to nearest.
    pub fn quantize(
        &self,
        flat: &[f32],
        bias: &[f32],
        importance: &[f64],
        factor: Option<&Factor>,
        clip: ClipSearch,
    ) -> (QuantizedLinear, WeightError) {
        let features = self.flat_features() as usize;
        if factor.is_none() && clip == ClipSearch::OFF {
            return (self.round(flat, bias), WeightError::default());
        }
        let config = GridConfig {
            bits: self.format.weight_bits,
            granularity: self.format.weight_scale,
            group_size: self.format.group_size as usize,
            clip,
        };
        let grid = Grid::fit(flat, features, importance, config);
        let (q, error) = match factor {
            None => (grid.round(flat), WeightError::default()),
            Some(factor) => {
                let result = gptq(flat, factor, &grid);
                let error = WeightError {
                    gptq: result.errors.iter().sum(),
                    rounding: result.rounding_errors.iter().sum(),
                    damping: factor.damping_share,
                };
                (result.q, error)
            }
        };
        let rows = q.par_chunks_exact(features);
        let words = match self.format.weight_bits.on_device() {
            Bits::Int8 => rows.flat_map_iter(pack::pack_i8).collect(),
            Bits::Int4 => rows.flat_map_iter(pack::pack_i4).collect(),
        };
        let out = self.shape.out_features as usize;
        let multipliers = match self.format.group_size {
            0 => Vec::new(),
            _ => (0..out)
                .flat_map(|row| pack::pack_multipliers(grid.row_multipliers(row)))
                .collect(),
        };
        let quantized = QuantizedLinear {
            format: self.format,
            words,
            scales: grid.scales,
            multipliers,
            bias: bias.to_vec(),
            out_features: out,
        };
        (quantized, error)
    }

    /// Flat weights to nearest, as they are rounded while a float model is loaded.
    fn round(&self, flat: &[f32], bias: &[f32]) -> QuantizedLinear {
        let format = self.format;
        let group_size = format.group_size as usize;
        let q_max = format.weight_bits.q_max() as i32;
        let scale_of = |absmax: f32| match format.weight_bits {
            WeightBits::Int4 => pack::scale_i4(absmax, group_size),
            _ => pack::scale_of(absmax, q_max),
        };
        let tensor_scale = match format.weight_scale {
            Granularity::PerTensor => Some(scale_of(pack::absmax(flat))),
            Granularity::PerChannel => None,
        };
        let rows: Vec<(f32, Vec<u32>, Vec<u32>)> = flat
            .par_chunks_exact(self.flat_features() as usize)
            .map(|row| {
                let scale = tensor_scale.unwrap_or_else(|| scale_of(pack::absmax(row)));
                let (words, multipliers) = match format.weight_bits {
                    WeightBits::Int4 => pack::quantize_row_i4_with_scale(row, group_size, scale),
                    _ => {
                        let integers = pack::round_to_steps(row, scale, q_max);
                        (pack::pack_i8(&integers), Vec::new())
                    }
                };
                (scale, words, multipliers)
            })
            .collect();
        let num_scales = format.num_scales(self.shape.out_features) as usize;
        QuantizedLinear {
            format,
            words: rows
                .iter()
                .flat_map(|(_, words, _)| words)
                .copied()
                .collect(),
            scales: rows
                .iter()
                .map(|(scale, _, _)| *scale)
                .take(num_scales)
                .collect(),
            multipliers: rows.iter().flat_map(|(_, _, m)| m).copied().collect(),
            bias: bias.to_vec(),
            out_features: self.shape.out_features as usize,
        }
    }
}

/// Errors of a linear's outputs over the calibration inputs, summed: as they are, and had its weights been rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightError {
    pub gptq: f64,
    pub rounding: f64,
    /// Share of the mean diagonal that was added to the Hessian.
    pub damping: f64,
}

/// The integers of a linear, in the device's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedLinear {
    format: LinearFormat,
    pub words: Vec<u32>,
    pub scales: Vec<f32>,
    pub multipliers: Vec<u32>,
    /// Empty where the linear has none.
    pub bias: Vec<f32>,
    out_features: usize,
}

impl QuantizedLinear {
    /// A scale for each output channel.
    pub fn row_scales(&self) -> Vec<f32> {
        match self.scales[..] {
            [scale] => vec![scale; self.out_features],
            _ => self.scales.clone(),
        }
    }

    /// What the integers stand for, [out, flat]; `features` flat channels.
    pub fn values(&self, features: usize) -> Vec<f32> {
        let per_row = self.format.multiplier_words(features as u32) as usize;
        let row_words = self.words.len() / self.out_features;
        let rows = self
            .words
            .par_chunks_exact(row_words)
            .zip(self.row_scales());
        rows.enumerate()
            .flat_map_iter(|(row, (words, scale))| {
                let multipliers = &self.multipliers[row * per_row..][..per_row];
                let mut values = vec![0.0; features];
                self.format
                    .dequantize_row(words, scale, multipliers, &mut values);
                values
            })
            .collect()
    }
}
