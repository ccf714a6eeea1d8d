//! What a quantization chose and measured: for people, as a table and a model card, and for programs, as JSON.

use super::linear::{LinearPlan, WeightError};
use super::pipeline::LayerPlan;
use crate::tensor::{Bits, WeightBits};
use serde::Serialize;
use std::fmt::Write;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub recipe: String,
    /// Every knob, as it was.
    pub settings: String,
    pub calibration: Option<CalibrationReport>,
    /// As `share,lowest,highest`, where outliers were put into the model first.
    pub injected_outliers: Option<String>,
    /// What calibrated and quantized.
    pub device: String,
    /// Of all tensors.
    pub bytes: u64,
    /// Bits of everything that is stored for the decoder's linears, for each of their weights.
    pub bits_per_weight: f64,
    /// Share of the linears' multiply-accumulates with INT4 weights and INT4 activations, before flattening, head excluded.
    pub int4_share: f64,
    /// Channels that flattening added, for each of the linears' input channels.
    pub added_channels: f64,
    pub layers: Vec<LayerReport>,
    pub cost: CostReport,
}

#[derive(Clone, Debug, Serialize)]
pub struct CalibrationReport {
    pub file: String,
    pub windows: usize,
    pub tokens_per_window: usize,
    /// Tokens of each window whose keys and values are stored as floats.
    pub stored_tokens: usize,
    pub seed: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    pub layer: usize,
    pub linears: Vec<LinearReport>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExpectedError {
    pub weight_bits: u32,
    pub group_size: u32,
    /// `None` where activations are floats.
    pub activation_bits: Option<u32>,
    pub error: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct LinearReport {
    pub name: String,
    pub bytes: u64,
    pub weight_bits: u32,
    pub group_size: u32,
    /// `None` where activations are floats.
    pub activation_bits: Option<u32>,
    /// Of a static input: what its scale covers.
    pub threshold: Option<f32>,
    pub in_features: u32,
    pub added_channels: u32,
    /// Most parts of one channel.
    pub most_parts: u32,
    pub smoothed: bool,
    /// What each choice of bits would cost: the square of the outputs' error over that of the outputs, before GPTQ.
    pub expected_errors: Vec<ExpectedError>,
    /// Measured KL divergence of the model's output with this linear alone quantized by the first of these choices.
    pub divergence: Option<f64>,
    /// Sum of the squared errors of the outputs over the calibration inputs, that the rounding of the weights makes; and what
    /// rounding to nearest would have made. Absent without GPTQ.
    pub gptq_error: Option<f64>,
    pub rounding_error: Option<f64>,
    /// Of the Hessian's mean diagonal.
    pub damping: Option<f64>,
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CostReport {
    pub calibrating_seconds: f64,
    pub quantizing_seconds: f64,
    /// Most that the process had in memory, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

impl LayerReport {
    pub fn new(layer: usize, plan: &LayerPlan, errors: &[(String, WeightError)]) -> Self {
        let mut linears = Vec::new();
        for group in &plan.groups {
            for (at, linear) in group.linears.iter().enumerate() {
                let name = &linear.shape.name;
                let error = errors.iter().find(|(found, _)| found == name);
                let error = error.map(|(_, error)| *error);
                let input = linear.input.as_ref();
                let bits = linear.format.activations.bits();
                let expected = group.expected_errors.get(at);
                linears.push(LinearReport {
                    name: name.clone(),
                    bytes: linear.bytes(),
                    weight_bits: linear.format.weight_bits.count(),
                    group_size: linear.format.group_size,
                    activation_bits: bits.map(Bits::count),
                    threshold: input
                        .zip(bits)
                        .map(|(input, bits)| input.scale * bits.q_max() as f32),
                    in_features: linear.shape.in_features,
                    added_channels: linear.added_channels(),
                    most_parts: input
                        .and_then(|input| input.map.x_parts().iter().max().copied())
                        .unwrap_or(1),
                    smoothed: !group.smoothing.is_empty(),
                    expected_errors: expected
                        .into_iter()
                        .flatten()
                        .map(|(choice, error)| ExpectedError {
                            weight_bits: choice.weights.count(),
                            group_size: choice.group_size,
                            activation_bits: bits.map(|_| choice.activations.count()),
                            error: *error,
                        })
                        .collect(),
                    divergence: group.divergences.get(at).copied(),
                    gptq_error: error.map(|error| error.gptq),
                    rounding_error: error.map(|error| error.rounding),
                    damping: error.map(|error| error.damping),
                });
            }
        }
        Self { layer, linears }
    }
}

/// Totals over all linears: bits per weight, share of the work in INT4, added channels.
pub fn totals(plan: &[LayerPlan]) -> (f64, f64, f64) {
    let linears = || {
        let groups = plan.iter().flat_map(|layer| &layer.groups);
        groups.flat_map(|group| &group.linears)
    };
    let sum = |value: &dyn Fn(&LinearPlan) -> u64| linears().map(value).sum::<u64>() as f64;
    let macs = sum(&LinearPlan::macs).max(1.0);
    let int4 = sum(&|linear| {
        let format = linear.format;
        let both =
            format.weight_bits == WeightBits::Int4 && format.activations.bits() == Some(Bits::Int4);
        if both { linear.macs() } else { 0 }
    });
    let channels = sum(&|linear| linear.shape.in_features.into()).max(1.0);
    (
        8.0 * sum(&LinearPlan::bytes) / macs,
        int4 / macs,
        sum(&|linear| linear.added_channels().into()) / channels,
    )
}

impl Report {
    /// One line for each linear, as a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| linear | weights | activations | added channels | expected error | KL alone | GPTQ over rounding |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        for linear in self.layers.iter().flat_map(|layer| &layer.linears) {
            let groups = match linear.group_size {
                0 => String::new(),
                size => format!(" in groups of {size}"),
            };
            let errors = linear.expected_errors.iter();
            let errors: Vec<String> = errors.map(|e| format!("{:.1e}", e.error)).collect();
            let gptq = linear.gptq_error.zip(linear.rounding_error);
            let gptq = gptq.map(|(gptq, rounding)| gptq / rounding.max(f64::MIN_POSITIVE));
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | INT{}{groups} | {} | {} ({:.1} %, at most {} parts) | {} | {} | {} |",
                linear.name,
                linear.weight_bits,
                linear
                    .activation_bits
                    .map_or("float".to_owned(), |bits| format!("INT{bits}")),
                linear.added_channels,
                100.0 * f64::from(linear.added_channels) / f64::from(linear.in_features),
                linear.most_parts,
                errors.join(" / "),
                number(linear.divergence, 5),
                number(gptq, 3),
            );
        }
        text
    }

    /// The model card of the quantized folder.
    pub fn model_card(&self) -> String {
        let calibration = match &self.calibration {
            None => "No calibration.".to_owned(),
            Some(calibration) => format!(
                "Calibrated on {} windows of {} tokens of `{}` (seed {}).",
                calibration.windows,
                calibration.tokens_per_window,
                calibration.file,
                calibration.seed
            ),
        };
        let name = self.model.rsplit('/').next().unwrap_or(&self.model);
        format!(
            "# {name}, quantized: {recipe}\n\n\
             Made from `{name}` by `plateau quantize`, recipe `{recipe}`, on {device}. {calibration} Its licence is that of the original.\n\n\
             {bytes} bytes of tensors, {bpw:.3} bits for each weight of the decoder's linears; {share:.2} % of the linears' work in INT4 by INT4; \
             {added:.2} % channels added by flattening.\n\n\
             {table}",
            recipe = self.recipe,
            device = self.device,
            bytes = self.bytes,
            bpw = self.bits_per_weight,
            share = 100.0 * self.int4_share,
            added = 100.0 * self.added_channels,
            table = self.table(),
        )
    }
}

/// Resident memory at most so far, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}
