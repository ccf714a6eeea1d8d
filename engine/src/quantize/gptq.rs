//! GPTQ: round a row of weights feature by feature, and let the features that are still to come make up for each error.
//!
//! [GPTQ](https://arxiv.org/abs/2210.17323), section 3, minimizes `(w - q s)ᵀ H (w - q s)` with `H = XᵀX` of the layer's inputs.
//! After feature j is rounded, the features after it can be moved to their optimum given all errors so far. Written without
//! the inverse of H: with `H = R Rᵀ`, R upper triangular in the order of rounding, the optimum of feature j is
//!
//! ```text
//! target_j = w_j + sum over i < j of (R_ij / R_jj) * (w_i - q_i s_i)          q_j = round(target_j / s_j)
//! ```
//!
//! and the objective is the sum over j of `R_jj² (target_j - q_j s_j)²`. This is the same sequence of roundings as the paper's
//! (theorem 6 of [QuIP](https://arxiv.org/abs/2307.13304), which calls this form LDLQ) at a quarter of the work, since nothing is
//! inverted. The sum over earlier errors is taken once for each panel of features, for many rows together: the paper's lazy
//! batches.

use super::grid::Grid;
use super::linalg::{PANEL, Panels, multiply_add};
use rayon::prelude::*;

/// `XᵀX` of a layer's inputs.
pub struct Hessian {
    features: usize,
    panels: Panels,
}

impl Hessian {
    /// Of no inputs: zeros. Takes 4 bytes for each pair of features.
    pub fn new(features: usize) -> Self {
        Self {
            features,
            panels: Panels::zeros(features),
        }
    }

    /// Adds rows of an `XᵀX` from elsewhere, from row `first` on, `stride` words each. Their columns from the diagonal's panel
    /// on are read; what lies beyond the features is not.
    pub fn add_upper_rows(
        &mut self,
        first: usize,
        stride: usize,
        words: &[u32],
        value: impl Fn(u32) -> f64 + Sync,
    ) {
        let features = self.features;
        let rows = first..(first + words.len() / stride).min(features);
        self.panels.par_panels().for_each(|(p, panel)| {
            let of_panel = p * PANEL..((p + 1) * PANEL).min(features);
            for a in of_panel.start.max(rows.start)..of_panel.end.min(rows.end) {
                let row = &words[(a - first) * stride..][..features];
                let column = panel.iter_mut().skip(a - p * PANEL).step_by(PANEL);
                for (element, word) in column.zip(&row[p * PANEL..]) {
                    *element += value(*word);
                }
            }
        });
    }

    pub fn features(&self) -> usize {
        self.features
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.panels.at(row, column)
    }

    /// How much each feature matters: the sums of the squares of its inputs.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.features).map(|i| self.at(i, i)).collect()
    }
}

/// In which order features are rounded. Groups are by position in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// By position.
    #[default]
    Natural,
    /// Those with the largest inputs first, while all others can still make up for them ("act order").
    Descending,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqConfig {
    /// What is added to the diagonal, as a share of its mean. Features that flattening repeats depend on each other, so it
    /// cannot be 0 there.
    pub damping: f64,
    pub order: Order,
}

impl Default for GptqConfig {
    fn default() -> Self {
        Self {
            damping: 0.01,
            order: Order::Natural,
        }
    }
}

/// Why a Hessian cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum GptqError {
    #[error(
        "feature {feature}: the sum of squared inputs is {found}, expected a finite number of 0 or more"
    )]
    Diagonal { feature: usize, found: f64 },
    #[error("the Hessian has no Cholesky factor with damping up to {damping} of its mean diagonal")]
    NotPositive { damping: f64 },
}

/// Right-hand sides that [`Factor::solve`] solves together.
pub const SOLVED: usize = PANEL;

/// A Hessian's factor: serves every weight that reads the same inputs, and every grid.
pub struct Factor {
    features: usize,
    /// Unit lower triangular: column b below the diagonal has R_ij / R_jj, feature j at b. Positions run against the order of
    /// rounding, so that the errors of earlier features lie below.
    columns: Panels,
    /// R_jj² of each position.
    pivots: Vec<f64>,
    /// Added to the diagonal at each position.
    damping: Vec<f64>,
    /// The feature at each position.
    feature_at: Vec<usize>,
    /// What was added, as a share of the mean diagonal: more than asked where the factorization needed it.
    pub damping_share: f64,
}

impl Factor {
    /// Damping is raised tenfold, several times, until there is a factor. Takes 4 bytes for each pair of features.
    pub fn new(hessian: &Hessian, config: GptqConfig) -> Result<Self, GptqError> {
        const TRIES: u32 = 12;
        /// What a damping of 0 is raised to.
        const LEAST_SHARE: f64 = 1e-6;
        let features = hessian.features;
        let diagonal = hessian.diagonal();
        let bad = |value: &f64| !(value.is_finite() && *value >= 0.0);
        if let Some(feature) = diagonal.iter().position(bad) {
            let found = diagonal[feature];
            return Err(GptqError::Diagonal { feature, found });
        }
        let mut feature_at: Vec<usize> = (0..features).collect();
        if config.order == Order::Descending {
            feature_at.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
        }
        feature_at.reverse();
        let mean = diagonal.iter().sum::<f64>() / features.max(1) as f64;
        let mut share = config.damping;
        for _ in 0..TRIES {
            // A feature that is always 0 is on its own, whatever its diagonal.
            let damping_of = |feature: usize| match share * mean {
                added if diagonal[feature] + added > 0.0 => added,
                _ => 1.0,
            };
            let mut columns = Panels::from_fn(features, |row, column| {
                match (feature_at.get(row), feature_at.get(column)) {
                    (Some(&i), Some(&j)) if i == j => diagonal[i] + damping_of(i),
                    (Some(&i), Some(&j)) => hessian.at(i, j),
                    _ => f64::from(u8::from(row == column)),
                }
            });
            if columns.factorize() {
                let pivots = normalize(&mut columns);
                let damping = feature_at.iter().map(|&feature| damping_of(feature));
                return Ok(Self {
                    features,
                    columns,
                    pivots,
                    damping: damping.collect(),
                    feature_at,
                    damping_share: share,
                });
            }
            share = (share * 10.0).max(LEAST_SHARE);
        }
        Err(GptqError::NotPositive { damping: share })
    }

    pub fn features(&self) -> usize {
        self.features
    }

    /// What was added to each feature's diagonal.
    pub fn damping(&self) -> Vec<f64> {
        let mut of_feature = vec![0.0; self.features];
        for (feature, damping) in self.feature_at.iter().zip(&self.damping) {
            of_feature[*feature] = *damping;
        }
        of_feature
    }

    /// Solves `(H + damping) y = rhs` for [`SOLVED`] right-hand sides, [features, SOLVED], in place.
    pub fn solve(&self, rhs: &mut [f64]) {
        let mut lanes = vec![0.0; self.columns.size() * PANEL];
        for (lanes, &feature) in lanes.chunks_exact_mut(PANEL).zip(&self.feature_at) {
            lanes.copy_from_slice(&rhs[feature * PANEL..][..PANEL]);
        }
        self.solve_lanes(&mut lanes);
        for (lanes, &feature) in lanes.chunks_exact(PANEL).zip(&self.feature_at) {
            rhs[feature * PANEL..][..PANEL].copy_from_slice(lanes);
        }
    }

    /// [positions, PANEL]: forward through the unit triangle, by the pivots, and back.
    fn solve_lanes(&self, lanes: &mut [f64]) {
        let panels = self.columns.size() / PANEL;
        for p in 0..panels {
            let panel = self.columns.panel(p);
            let (head, below) = lanes.split_at_mut((p + 1) * PANEL * PANEL);
            let block = &mut head[p * PANEL * PANEL..];
            for row in 1..PANEL {
                let (before, x) = block.split_at_mut(row * PANEL);
                for (c, y) in before.chunks_exact(PANEL).enumerate() {
                    subtract(&mut x[..PANEL], panel[row * PANEL + c], y);
                }
            }
            let rows = panel[PANEL * PANEL..].chunks_exact(PANEL);
            for (x, factors) in below.chunks_exact_mut(PANEL).zip(rows) {
                for (y, factor) in block.chunks_exact(PANEL).zip(factors) {
                    subtract(x, *factor, y);
                }
            }
        }
        for (x, pivot) in lanes.chunks_exact_mut(PANEL).zip(&self.pivots) {
            x.iter_mut().for_each(|x| *x /= pivot);
        }
        for p in (0..panels).rev() {
            let panel = self.columns.panel(p);
            let (head, below) = lanes.split_at_mut((p + 1) * PANEL * PANEL);
            let block = &mut head[p * PANEL * PANEL..];
            let rows = panel[PANEL * PANEL..].chunks_exact(PANEL);
            for (y, factors) in below.chunks_exact(PANEL).zip(rows) {
                for (x, factor) in block.chunks_exact_mut(PANEL).zip(factors) {
                    subtract(x, *factor, y);
                }
            }
            for row in (1..PANEL).rev() {
                let (before, y) = block.split_at_mut(row * PANEL);
                for (c, x) in before.chunks_exact_mut(PANEL).enumerate() {
                    subtract(x, panel[row * PANEL + c], &y[..PANEL]);
                }
            }
        }
    }
}

/// `x -= factor * y`
fn subtract(x: &mut [f64], factor: f64, y: &[f64]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x -= factor * y;
    }
}

/// From `L` to the unit lower triangular `L diag(L)^-1`, and the squares of the diagonal.
fn normalize(columns: &mut Panels) -> Vec<f64> {
    let normalize = |(_, panel): (usize, &mut Vec<f64>)| {
        let diagonal: [f64; PANEL] = std::array::from_fn(|c| panel[c * PANEL + c]);
        for row in panel.chunks_exact_mut(PANEL) {
            for (element, diagonal) in row.iter_mut().zip(diagonal) {
                *element /= diagonal;
            }
        }
        diagonal.map(|root| root * root)
    };
    let pivots: Vec<[f64; PANEL]> = columns.par_panels().map(normalize).collect();
    pivots.into_flattened()
}

/// Quantized weights, and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Gptq {
    /// [rows, features].
    pub q: Vec<i8>,
    /// `(w - q s)ᵀ H (w - q s)` of each row.
    pub errors: Vec<f64>,
    /// The same, had the row been rounded to nearest.
    pub rounding_errors: Vec<f64>,
}

/// Rows that are quantized together.
const ROWS: usize = 16;
/// A pass over a chunk follows GPTQ's errors and those of rounding side by side.
const LANES: usize = 2 * ROWS;

/// Quantizes `w` [rows, features] to `grid`, fitted to the same rows. Each row is the better of GPTQ's and the rounded one by
/// the objective.
pub fn gptq(w: &[f32], factor: &Factor, grid: &Grid) -> Gptq {
    let features = factor.features;
    assert_eq!(grid.features, features, "a grid for these features");
    let mut q = vec![0; w.len()];
    let objectives: Vec<[Vec<f64>; 2]> = q
        .par_chunks_mut(ROWS * features)
        .zip(w.par_chunks(ROWS * features))
        .enumerate()
        .map(|(chunk, (q, w))| quantize_chunk(chunk * ROWS, w, q, factor, grid))
        .collect();
    let [mut errors, mut rounding_errors] = [Vec::new(), Vec::new()];
    for [chunk, rounding_chunk] in objectives {
        errors.extend(chunk);
        rounding_errors.extend(rounding_chunk);
    }
    Gptq {
        q,
        errors,
        rounding_errors,
    }
}

/// At most [`ROWS`] rows from `first_row` on. Returns the objectives of what is kept, and of rounding.
fn quantize_chunk(
    first_row: usize,
    w: &[f32],
    q: &mut [i8],
    factor: &Factor,
    grid: &Grid,
) -> [Vec<f64>; 2] {
    let features = factor.features;
    let size = factor.columns.size();
    let rows = w.len() / features;
    // w - q s at each position: GPTQ's rows, then the rounded ones.
    let mut errors = vec![0.0; size * LANES];
    let mut objectives = [0.0; LANES];
    for p in (0..size / PANEL).rev() {
        let panel = factor.columns.panel(p);
        let below = (p + 1) * PANEL;
        // [LANES, PANEL]: what the errors of earlier features ask of these.
        let mut sums = [0.0; LANES * PANEL];
        let earlier_errors = &errors[below * LANES..];
        multiply_add(
            |lane, at| earlier_errors[at * LANES + lane],
            &panel[PANEL * PANEL..],
            &mut sums,
        );
        for c in (0..PANEL).rev() {
            let position = p * PANEL + c;
            let Some(&feature) = factor.feature_at.get(position) else {
                continue;
            };
            let errors = &mut errors[position * LANES..][..LANES];
            for lane in 0..LANES {
                let row = lane % ROWS;
                if row >= rows {
                    continue;
                }
                let weight = f64::from(w[row * features + feature]);
                let step = grid.step(first_row + row, feature);
                let sums = &mut sums[lane * PANEL..][..PANEL];
                let moved = sums[c];
                let rounded = if lane < ROWS {
                    step.round(weight + moved)
                } else {
                    step.round(weight)
                };
                if lane < ROWS {
                    q[row * features + feature] = rounded as i8;
                }
                let error = weight - rounded * step.size;
                errors[lane] = error;
                let residual = error + moved;
                objectives[lane] += factor.pivots[position] * (residual * residual)
                    - factor.damping[position] * (error * error);
                // Columns before this one are rounded after it.
                for (sum, &factor) in sums[..c].iter_mut().zip(&panel[c * PANEL..]) {
                    *sum += error * factor;
                }
            }
        }
    }
    // The subtraction of the damping may leave less than nothing.
    let objectives = objectives.map(|objective| objective.max(0.0));
    let (of_gptq, of_rounding) = objectives.split_at(ROWS);
    let mut kept = of_gptq[..rows].to_vec();
    for row in 0..rows {
        if of_rounding[row] <= of_gptq[row] {
            kept[row] = of_rounding[row];
            let (at, end) = (row * features, (row + 1) * features);
            q[at..end].copy_from_slice(&grid.round_row(first_row + row, &w[at..end]));
        }
    }
    [kept, of_rounding[..rows].to_vec()]
}
