//! Grids: the values that quantized weights can take, and the search for their scales.
//!
//! A weight is `q * scale`, or `q * m * scale` in groups of INT4, where m from 1 to 16 is the group's integer multiplier; q is
//! symmetric, -7 to 7 (INT4) up to -127 to 127 (INT8). A scale below `absmax / q_max` clips the largest weights so that all others have finer
//! steps. The search takes, from a fixed row of ratios, the one with the least `sum over j of h_j * (w_j - q_j * step)²`,
//! where h is the diagonal of the Hessian of the layer's inputs (the second-order objective of
//! [GPTQ](https://arxiv.org/abs/2210.17323), without its cross terms) or 1.

use crate::tensor::{Granularity, WeightBits};
use plateau_shaders::pack;
use rayon::prelude::*;

/// How weights are cut into steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridConfig {
    pub bits: WeightBits,
    pub granularity: Granularity,
    /// Features that share a multiplier; 0 for none. INT4 only.
    pub group_size: usize,
    pub clip: ClipSearch,
}

/// Ratios of the largest magnitude that are tried for a scale: `steps` + 1 evenly spaced ones from 1 down to `lowest`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipSearch {
    pub lowest: f32,
    pub steps: u32,
}

impl ClipSearch {
    /// No clipping: the scale that just reaches the largest magnitude.
    pub const OFF: Self = Self {
        lowest: 1.0,
        steps: 0,
    };
    /// Enough for INT4, where the best ratios lie between 0.6 and 1.
    pub const DEFAULT: Self = Self {
        lowest: 0.5,
        steps: 25,
    };

    fn ratios(self) -> impl Iterator<Item = f64> {
        let below = 1.0 - f64::from(self.lowest);
        (0..=self.steps)
            .map(move |step| 1.0 - below * f64::from(step) / f64::from(self.steps.max(1)))
    }
}

/// The scales of a weight [rows, features].
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    pub bits: WeightBits,
    pub group_size: usize,
    pub features: usize,
    /// One for each row, or one for all.
    pub scales: Vec<f32>,
    /// [rows, groups], each 1 to 16; empty without groups.
    pub multipliers: Vec<u32>,
}

impl Grid {
    /// The best scales for `w` [rows, features], all finite; `importance` is h of each feature, or empty for 1.
    pub fn fit(w: &[f32], features: usize, importance: &[f64], config: GridConfig) -> Self {
        let fit = Fit {
            config,
            q_max: f64::from(config.bits.q_max()),
            ones: vec![1.0; if importance.is_empty() { features } else { 0 }],
            importance,
        };
        let (scales, multipliers) = match config.granularity {
            Granularity::PerChannel => {
                let rows: Vec<(f32, Vec<u32>)> = w
                    .par_chunks_exact(features)
                    .map(|row| fit.best_scale(&[row]))
                    .collect();
                let scales = rows.iter().map(|(scale, _)| *scale).collect();
                (scales, rows.into_iter().flat_map(|(_, m)| m).collect())
            }
            Granularity::PerTensor => {
                let rows: Vec<&[f32]> = w.chunks_exact(features).collect();
                let (scale, multipliers) = fit.best_scale(&rows);
                (vec![scale], multipliers)
            }
        };
        Self {
            bits: config.bits,
            group_size: config.group_size,
            features,
            scales,
            multipliers,
        }
    }

    /// The scale of a row.
    pub fn scale(&self, row: usize) -> f32 {
        self.scales[if self.scales.len() == 1 { 0 } else { row }]
    }

    /// The multipliers of a row, as `pack::pack_multipliers` takes them; none without groups.
    pub fn row_multipliers(&self, row: usize) -> &[u32] {
        let groups = pack::num_groups(self.features, self.group_size);
        &self.multipliers[row * groups..][..groups]
    }

    /// The step at a feature of a row: the scale, times the group's multiplier.
    pub fn step(&self, row: usize, feature: usize) -> Step {
        let multiplier = match feature.checked_div(self.group_size) {
            None => 1,
            Some(group) => self.row_multipliers(row)[group],
        };
        Step::new(
            f64::from(self.scale(row)) * f64::from(multiplier),
            self.bits.q_max(),
        )
    }

    /// Round to nearest: the integers of row `row`.
    pub fn round_row(&self, row: usize, w: &[f32]) -> Vec<i8> {
        let rounded = |(feature, &w): (usize, &f32)| self.step(row, feature).round(w.into()) as i8;
        w.iter().enumerate().map(rounded).collect()
    }

    /// Round to nearest: the integers of `w` [rows, features].
    pub fn round(&self, w: &[f32]) -> Vec<i8> {
        w.par_chunks_exact(self.features)
            .enumerate()
            .flat_map_iter(|(row, w)| self.round_row(row, w))
            .collect()
    }

    /// The values of integers [rows, features].
    pub fn dequantize(&self, q: &[i8]) -> Vec<f32> {
        let value = |(at, &q): (usize, &i8)| {
            let step = self.step(at / self.features, at % self.features);
            (f64::from(q) * step.size) as f32
        };
        q.par_iter().enumerate().map(value).collect()
    }
}

/// The distance between neighbouring values, and how far they reach.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub size: f64,
    inverse: f64,
    q_max: f64,
}

impl Step {
    /// Values reach `q_max` steps.
    pub fn new(size: f64, q_max: u32) -> Self {
        Self {
            size,
            // 0 where all values are 0.
            inverse: if size > 0.0 { 1.0 / size } else { 0.0 },
            q_max: f64::from(q_max),
        }
    }

    /// The nearest whole number of steps, ties to even, clamped to what the bits hold.
    pub fn round(self, value: f64) -> f64 {
        // Adding 1.5 * 2^52 leaves no bit for a fraction; two instructions on every machine.
        const WHOLE: f64 = 6_755_399_441_055_744.0;
        ((value * self.inverse).clamp(-self.q_max, self.q_max) + WHOLE) - WHOLE
    }
}

/// A search, and what it weighs errors with.
struct Fit<'a> {
    config: GridConfig,
    q_max: f64,
    importance: &'a [f64],
    ones: Vec<f64>,
}

impl Fit<'_> {
    /// The one scale of the least error for `rows`, with the multipliers of their groups. The larger one of equals.
    fn best_scale(&self, rows: &[&[f32]]) -> (f32, Vec<u32>) {
        let absmax = rows.iter().map(|row| pack::absmax(row)).fold(0.0, f32::max);
        let multiplier = match self.config.group_size {
            0 => 1,
            _ => pack::MULTIPLIER_MAX,
        };
        let full = pack::scale_of(absmax, (self.config.bits.q_max() * multiplier) as i32);
        let mut best: (f32, f64, Vec<u32>) = (full, f64::INFINITY, Vec::new());
        for ratio in self.config.clip.ratios() {
            let scale = (f64::from(full) * ratio) as f32;
            // A subnormal scale may be 0 on a GPU.
            if full > 0.0 && !scale.is_normal() {
                break;
            }
            let fits: Vec<(f64, Vec<u32>)> =
                rows.par_iter().map(|row| self.row(row, scale)).collect();
            let error = fits.iter().map(|(error, _)| error).sum::<f64>();
            if error < best.1 {
                let multipliers = fits.into_iter().flat_map(|(_, m)| m).collect();
                best = (scale, error, multipliers);
            }
        }
        (best.0, best.2)
    }

    /// The error of a row with a scale, and its best multipliers.
    fn row(&self, row: &[f32], scale: f32) -> (f64, Vec<u32>) {
        let importance = if self.importance.is_empty() {
            &self.ones[..]
        } else {
            self.importance
        };
        if self.config.group_size == 0 {
            return (self.error(row, importance, scale.into()), Vec::new());
        }
        let groups = row
            .chunks(self.config.group_size)
            .zip(importance.chunks(self.config.group_size));
        let fits = groups.map(|(group, importance)| self.group(group, importance, scale));
        let (errors, multipliers): (Vec<f64>, Vec<u32>) = fits.unzip();
        (errors.iter().sum(), multipliers)
    }

    /// The multiplier of the least error for one group: from the least that clips nothing down to the lowest ratio, and one
    /// below that in any case, since a coarse multiplier is rarely the best.
    fn group(&self, group: &[f32], importance: &[f64], scale: f32) -> (f64, u32) {
        let scale = f64::from(scale);
        let reach = scale * self.q_max;
        if reach == 0.0 {
            return (self.error(group, importance, 0.0), 1);
        }
        let absmax = f64::from(pack::absmax(group));
        let most = f64::from(pack::MULTIPLIER_MAX);
        let covers = (absmax / reach).ceil().clamp(1.0, most) as u32;
        let lowest = f64::from(self.config.clip.lowest) * absmax / reach;
        let lowest = (lowest.ceil().clamp(1.0, most) as u32).min(covers.max(2) - 1);
        let mut best = (f64::INFINITY, covers);
        for m in (lowest..=covers).rev() {
            let error = self.error(group, importance, scale * f64::from(m));
            if error < best.0 {
                best = (error, m);
            }
        }
        best
    }

    /// `sum over j of h_j * (w_j - q_j * step)²`, in eight chains and then in pairs.
    fn error(&self, w: &[f32], importance: &[f64], step: f64) -> f64 {
        const CHAINS: usize = 8;
        let step = Step::new(step, self.config.bits.q_max());
        let term = |w: f32, h: f64| {
            let w = f64::from(w);
            let e = w - step.round(w) * step.size;
            h * (e * e)
        };
        let mut sums = [0.0; CHAINS];
        let (w_chunks, h_chunks) = (w.chunks_exact(CHAINS), importance.chunks_exact(CHAINS));
        let rest = w_chunks.remainder().iter().zip(h_chunks.remainder());
        for (sum, (&w, &h)) in sums.iter_mut().zip(rest) {
            *sum = term(w, h);
        }
        for (w, h) in w_chunks.zip(h_chunks) {
            for ((sum, &w), &h) in sums.iter_mut().zip(w).zip(h) {
                *sum += term(w, h);
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        ((a + b) + (c + d)) + ((e + f) + (g + h))
    }
}
