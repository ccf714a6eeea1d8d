//! The static scale of an activation: the threshold, and into how many parts each channel is cut.
//!
//! FlattenQuant (arXiv 2402.17985, section 3.2) cuts every channel above the threshold until its calibrated maximum is covered.
//! Coverage is not what costs accuracy, error is: a rare value may saturate if the parts that it would take serve another
//! channel better, and a lower threshold makes every rounding finer. So both are chosen for the least expected error of the
//! output, with a limit on the channels that are added:
//!
//!   sum over channels j of  energy_j * E[(x_j - Q(x_j))^2],   energy_j = sum over outputs of w_j^2
//!
//! which is the expected square of the linear's error where the channels' errors are not correlated.

use super::flatten::{num_parts, usable_threshold};
use super::recipe::Parts;
use crate::tensor::Bits;
use rayon::prelude::*;

/// Values that a group of linears reads, by channel.
#[derive(Clone, Debug, Default)]
pub struct ActivationStats {
    /// The largest magnitude of each channel, over every row.
    pub absmax: Vec<f32>,
    /// The mean square of each channel, over every row.
    pub mean_square: Vec<f64>,
    /// Magnitudes in some rows, spread evenly: [channels][rows].
    pub sample: Vec<Vec<f32>>,
    /// The largest magnitudes of each channel over every row, up to [`TAIL`] of them: what a sample would miss.
    pub tail: Vec<Vec<f32>>,
    pub rows: usize,
}

/// Values of a channel's tail.
const TAIL: usize = 64;
/// Channels that are gone through together: a line of the cache of each row.
const COLUMNS: usize = 16;

impl ActivationStats {
    pub fn new(channels: usize) -> Self {
        Self {
            absmax: vec![0.0; channels],
            mean_square: vec![0.0; channels],
            sample: vec![Vec::new(); channels],
            tail: vec![Vec::new(); channels],
            rows: 0,
        }
    }

    /// Adds rows [rows, channels]; each `keep`-th of them goes to the sample, and `first` is the number of the first.
    pub fn add(&mut self, rows: &[f32], first: usize, keep: usize) {
        let channels = self.absmax.len();
        self.rows += rows.len() / channels;
        let blocks = self
            .absmax
            .par_chunks_mut(COLUMNS)
            .zip(self.mean_square.par_chunks_mut(COLUMNS))
            .zip(self.sample.par_chunks_mut(COLUMNS))
            .zip(self.tail.par_chunks_mut(COLUMNS))
            .enumerate();
        blocks.for_each(|(block, (((absmax, squares), sample), tail))| {
            let columns = block * COLUMNS..block * COLUMNS + absmax.len();
            for (row, values) in rows.chunks_exact(channels).enumerate() {
                let sampled = (first + row).is_multiple_of(keep);
                for (j, value) in values[columns.clone()].iter().enumerate() {
                    let value = value.abs();
                    absmax[j] = absmax[j].max(value);
                    squares[j] += f64::from(value) * f64::from(value);
                    if sampled {
                        sample[j].push(value);
                    }
                    let tail = &mut tail[j];
                    // The first TAIL are in order, and what counts is larger than the last of them.
                    if tail.len() < TAIL || value > tail[TAIL - 1] {
                        tail.push(value);
                        if tail.len() == TAIL || tail.len() == 4 * TAIL {
                            shorten(tail);
                        }
                    }
                }
            }
            tail.iter_mut().for_each(shorten);
        });
    }

    /// Sums of squares to means.
    pub fn finish(&mut self) {
        for squares in &mut self.mean_square {
            *squares /= self.rows.max(1) as f64;
        }
    }

    /// Mean over the rows of the square of what exceeds `limit`. From the tail where it reaches as far, else from the sample.
    fn saturation(&self, j: usize, limit: f64) -> f64 {
        let over = |x: &f32| (f64::from(*x) - limit).max(0.0);
        let squares = |values: &[f32]| values.iter().map(|x| over(x) * over(x)).sum::<f64>();
        let (tail, sample) = (&self.tail[j], &self.sample[j]);
        match tail.last() {
            Some(least) if f64::from(*least) > limit && tail.len() < self.rows => {
                squares(sample) / sample.len().max(1) as f64
            }
            _ => squares(tail) / self.rows.max(1) as f64,
        }
    }

    /// What the group reads once channel j is divided by `scales[j]`.
    pub fn rescale(&mut self, scales: &[f32]) {
        for (j, scale) in scales.iter().enumerate() {
            self.absmax[j] /= scale;
            self.mean_square[j] /= f64::from(*scale) * f64::from(*scale);
            self.sample[j].iter_mut().for_each(|value| *value /= scale);
            self.tail[j].iter_mut().for_each(|value| *value /= scale);
        }
    }
}

/// Keeps the largest values, in descending order.
fn shorten(tail: &mut Vec<f32>) {
    tail.sort_unstable_by(|a, b| b.total_cmp(a));
    tail.truncate(TAIL);
}

/// A static scale, before it is a map.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticChoice {
    /// Magnitude of a part at most: q_max steps.
    pub threshold: f32,
    /// Of each channel, 1 and more.
    pub parts: Vec<u32>,
    /// The expected square of each channel's error.
    pub channel_errors: Vec<f64>,
    /// The expected square of the outputs' error, over all outputs.
    pub error: f64,
}

impl StaticChoice {
    /// For inputs that are zero, or stay floats, or have a scale for each token.
    pub fn exact(channels: usize) -> Self {
        Self {
            threshold: 1.0,
            parts: vec![1; channels],
            channel_errors: vec![0.0; channels],
            error: 0.0,
        }
    }
}

/// Thresholds that are tried, from the largest magnitude down to a fraction of it.
const THRESHOLDS: u32 = 24;
const LOWEST_FRACTION: f64 = 0.01;

/// Parts of a channel at most, where they are chosen by error.
const SEARCHED_PARTS_INT4: f32 = 12.0;
const SEARCHED_PARTS_INT8: f32 = 32.0;

/// Chooses threshold and parts for `bits`, adding at most `max_added` channels.
pub fn choose_static(
    stats: &ActivationStats,
    energy: &[f64],
    bits: Bits,
    parts: Parts,
    max_added: usize,
) -> StaticChoice {
    let largest = stats.absmax.iter().copied().fold(0.0, f32::max);
    let channels = stats.absmax.len();
    if largest == 0.0 {
        return StaticChoice::exact(channels);
    }
    let at = |threshold: f32| match parts {
        Parts::None => with_parts(stats, energy, bits, threshold, vec![1; channels]),
        Parts::Cover => cover(stats, energy, bits, threshold, max_added),
        Parts::Search => allocate(stats, energy, bits, threshold, max_added),
    };
    let highest = usable_threshold(largest, largest);
    if parts == Parts::None {
        return at(highest);
    }
    let fraction = |step: f64| {
        let exponent = step / f64::from(THRESHOLDS);
        let threshold = f64::from(largest) * libm::pow(LOWEST_FRACTION, exponent);
        usable_threshold(threshold as f32, largest)
    };
    let coarse = (0..=THRESHOLDS).map(f64::from);
    let best = least(coarse.map(|step| (step, at(fraction(step)))));
    let Some((step, choice)) = best else {
        return at(highest);
    };
    let finer = [-0.6, -0.3, 0.3, 0.6].map(|offset| (step + offset).max(0.0));
    let finer = finer.into_iter().map(|step| (step, at(fraction(step))));
    let best = least(std::iter::once((step, choice)).chain(finer));
    best.map_or_else(|| at(highest), |(_, choice)| choice)
}

fn least(choices: impl Iterator<Item = (f64, StaticChoice)>) -> Option<(f64, StaticChoice)> {
    choices.reduce(|best, next| {
        if next.1.error < best.1.error {
            next
        } else {
            best
        }
    })
}

/// As the paper: parts until the calibrated maximum is covered. The error is infinite where that takes too many channels.
fn cover(
    stats: &ActivationStats,
    energy: &[f64],
    bits: Bits,
    threshold: f32,
    max_added: usize,
) -> StaticChoice {
    let parts = num_parts(&stats.absmax, threshold);
    let added = |parts: &[u32]| parts.iter().map(|n| *n as usize - 1).sum::<usize>();
    let Some(parts) = parts.ok().filter(|parts| added(parts) <= max_added) else {
        return StaticChoice {
            threshold,
            parts: Vec::new(),
            channel_errors: Vec::new(),
            error: f64::INFINITY,
        };
    };
    with_parts(stats, energy, bits, threshold, parts)
}

/// Gives each added channel to the part that takes the most error away.
fn allocate(
    stats: &ActivationStats,
    energy: &[f64],
    bits: Bits,
    threshold: f32,
    max_added: usize,
) -> StaticChoice {
    let most_parts = match bits {
        Bits::Int4 => SEARCHED_PARTS_INT4,
        Bits::Int8 => SEARCHED_PARTS_INT8,
    };
    // Saturation E[max(x - p T, 0)^2] is convex in p, so a channel's gains fall with p and the largest ones are a prefix.
    let gains: Vec<Vec<f64>> = (0..energy.len())
        .into_par_iter()
        .map(|j| {
            let most = (stats.absmax[j] / threshold).ceil().min(most_parts) as u32;
            let saturated = |parts: u32| {
                energy[j] * stats.saturation(j, f64::from(parts) * f64::from(threshold))
            };
            let errors: Vec<f64> = (1..=most.max(1)).map(saturated).collect();
            errors.windows(2).map(|pair| pair[0] - pair[1]).collect()
        })
        .collect();
    let mut all: Vec<(f64, usize)> = gains
        .iter()
        .enumerate()
        .flat_map(|(j, gains)| gains.iter().map(move |gain| (*gain, j)))
        .filter(|(gain, _)| *gain > 0.0)
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut parts = vec![1; energy.len()];
    for (_, j) in all.into_iter().take(max_added) {
        parts[j] += 1;
    }
    with_parts(stats, energy, bits, threshold, parts)
}

/// The choice with its error: rounding of what is covered, and what saturates.
fn with_parts(
    stats: &ActivationStats,
    energy: &[f64],
    bits: Bits,
    threshold: f32,
    parts: Vec<u32>,
) -> StaticChoice {
    let step = f64::from(threshold) / f64::from(bits.q_max());
    let channel_errors: Vec<f64> = (0..energy.len())
        .into_par_iter()
        .map(|j| {
            let sample = &stats.sample[j];
            let rounding = |x: &f32| {
                let x = f64::from(*x);
                let error = x - step * (x / step).round_ties_even();
                error * error
            };
            let rounding = sample.iter().map(rounding).sum::<f64>() / sample.len().max(1) as f64;
            let limit = f64::from(parts[j]) * f64::from(threshold);
            rounding + stats.saturation(j, limit)
        })
        .collect();
    // In one order, whatever the threads did.
    let error = channel_errors.iter().zip(energy).map(|(e, w)| e * w).sum();
    StaticChoice {
        threshold,
        parts,
        channel_errors,
        error,
    }
}
