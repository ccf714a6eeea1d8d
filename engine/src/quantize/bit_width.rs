//! Which layers get INT4, which INT8.
//!
//! [FlattenQuant](https://arxiv.org/abs/2402.17985) compares, for X and W of each layer, the KL divergence of the INT4-quantized
//! distribution from the float one with that of the INT8-quantized one: a layer whose ratio stays under a limit is computed in
//! INT4. A target share of the work, and a target size, are the other ways in.

use super::grid::Step;
use crate::tensor::Bits;

/// How often values occur, in bins of equal width from -bound to bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bound: f32,
    counts: Vec<u64>,
}

impl Histogram {
    /// Bins that show the difference between INT8 and a float: 16 for a step.
    pub const DEFAULT_BINS: usize = 4080;

    /// Empty. `bound` is the largest magnitude to expect.
    pub fn new(bound: f32, bins: usize) -> Self {
        Self {
            bound,
            counts: vec![0; bins],
        }
    }

    /// Counts values; those beyond the bound go to the last bin.
    pub fn add(&mut self, values: &[f32]) {
        let last = self.counts.len() - 1;
        let per_unit = self.counts.len() as f64 / (2.0 * f64::from(self.bound));
        for &value in values {
            let bin = (f64::from(value) + f64::from(self.bound)) * per_unit;
            // A cast of a float stops at the ends of its type; no number at all (0 / 0) is bin 0.
            self.counts[(bin as usize).min(last)] += 1;
        }
    }

    /// Counts what another one of the same bound and bins has counted.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.bound, other.bound, "histograms of the same bound");
        assert_eq!(self.counts.len(), other.counts.len(), "of the same bins");
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }

    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The distribution that is left when values are quantized to at most `q_max` steps of `scale`: what falls on one step is spread evenly over the bins of that
    /// step in which there was anything at all.
    pub fn quantized(&self, scale: f32, q_max: u32) -> Vec<f64> {
        let step = Step::new(scale.into(), q_max);
        let width = 2.0 * f64::from(self.bound) / self.counts.len() as f64;
        let level = |bin: usize| {
            let center = (bin as f64 + 0.5) * width - f64::from(self.bound);
            (step.round(center) + f64::from(q_max)) as usize
        };
        let mut totals = vec![(0, 0_u64); 2 * q_max as usize + 1];
        for (bin, &count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let (total, bins) = &mut totals[level(bin)];
            *total += count;
            *bins += 1;
        }
        let spread = |(bin, &count): (usize, &u64)| match (count, totals[level(bin)]) {
            (0, _) => 0.0,
            (_, (total, bins)) => total as f64 / bins as f64,
        };
        self.counts.iter().enumerate().map(spread).collect()
    }

    /// How far the quantized distribution is from the float one.
    pub fn divergence(&self, scale: f32, q_max: u32) -> f64 {
        let counts: Vec<f64> = self.counts.iter().map(|&count| count as f64).collect();
        kl_divergence(&counts, &self.quantized(scale, q_max))
    }
}

/// `sum over i of p_i ln(p_i / q_i)` of two distributions, each normalized first: 0 for equal ones, infinite where p has what q
/// lacks, 0 where either is empty.
pub fn kl_divergence(p: &[f64], q: &[f64]) -> f64 {
    let [p_total, q_total] = [p, q].map(|weights| weights.iter().sum::<f64>());
    if p_total == 0.0 || q_total == 0.0 {
        return 0.0;
    }
    let term = |(&p, &q): (&f64, &f64)| match p / p_total {
        0.0 => 0.0,
        // Equal weights give exactly 0, where the totals are equal.
        share => share * libm::log(share / (q / q_total)),
    };
    let sum: f64 = p.iter().zip(q).map(term).sum();
    // Rounding may leave a little less than nothing.
    sum.max(0.0)
}

/// The divergence of one tensor of a layer at either width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    pub int4: f64,
    pub int8: f64,
}

impl Divergence {
    /// How many times worse INT4 is; 1 where both are perfect.
    pub fn ratio(self) -> f64 {
        if self.int4 <= self.int8 {
            1.0
        } else {
            self.int4 / self.int8
        }
    }
}

/// The paper's choice: INT4 for each layer of which neither X nor W has a ratio above `limit`.
pub fn choose_by_limit(layers: &[[Divergence; 2]], limit: f64) -> Vec<Bits> {
    let choose = |tensors: &[Divergence; 2]| {
        if tensors.iter().all(|divergence| divergence.ratio() <= limit) {
            Bits::Int4
        } else {
            Bits::Int8
        }
    };
    layers.iter().map(choose).collect()
}

/// What INT4 costs a layer and gives: any measure of damage, and the layer's multiply-accumulates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    pub cost: f64,
    pub macs: u64,
}

/// INT4 for the layers of the least cost for each multiply-accumulate, until they do at least `share` of all work.
pub fn choose_by_share(layers: &[Sensitivity], share: f64) -> Vec<Bits> {
    let total: u64 = layers.iter().map(|layer| layer.macs).sum();
    let mut order: Vec<usize> = (0..layers.len()).collect();
    let per_mac = |at: usize| layers[at].cost / layers[at].macs.max(1) as f64;
    order.sort_by(|&a, &b| per_mac(a).total_cmp(&per_mac(b)).then(a.cmp(&b)));
    let mut bits = vec![Bits::Int8; layers.len()];
    let mut done = 0;
    for at in order {
        if done as f64 >= share * total as f64 {
            break;
        }
        bits[at] = Bits::Int4;
        done += layers[at].macs;
    }
    bits
}

/// One way to store a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub bytes: u64,
    /// Any measure of damage that may be added up over layers.
    pub cost: f64,
}

/// No choice is small enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the smallest choice of all layers takes {smallest} bytes, expected at most {budget}")]
pub struct OverBudget {
    pub smallest: u64,
    pub budget: u64,
}

/// Which candidate each layer gets so that all take at most `budget` bytes. Starts from the smallest of each layer, then takes
/// the step that saves the most cost for each byte, again and again; steps go along the lower convex hull of a layer's
/// candidates, so that none hides behind a worse one. A step that does not fit ends its layer's ascent.
pub fn choose_within(layers: &[Vec<Candidate>], budget: u64) -> Result<Vec<usize>, OverBudget> {
    let hulls: Vec<Vec<usize>> = layers.iter().map(|layer| lower_hull(layer)).collect();
    let mut chosen = vec![0; layers.len()];
    let candidate = |layer: usize, at: usize| layers[layer][hulls[layer][at]];
    let mut bytes: u64 = (0..layers.len())
        .map(|layer| candidate(layer, 0).bytes)
        .sum();
    if bytes > budget {
        return Err(OverBudget {
            smallest: bytes,
            budget,
        });
    }
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, hull) in hulls.iter().enumerate() {
        for at in 1..hull.len() {
            steps.push((
                gain(candidate(layer, at - 1), candidate(layer, at)),
                layer,
                at,
            ));
        }
    }
    // Along a hull gains fall, so the steps of a layer stay in order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    for (_, layer, at) in steps {
        let more = candidate(layer, at).bytes - candidate(layer, at - 1).bytes;
        if chosen[layer] == at - 1 && bytes + more <= budget {
            chosen[layer] = at;
            bytes += more;
        }
    }
    Ok((0..layers.len())
        .map(|layer| hulls[layer][chosen[layer]])
        .collect())
}

/// Cost saved for each byte more.
fn gain(small: Candidate, large: Candidate) -> f64 {
    (small.cost - large.cost) / (large.bytes - small.bytes) as f64
}

/// The candidates on the lower convex hull, from the smallest, as long as the cost falls.
fn lower_hull(candidates: &[Candidate]) -> Vec<usize> {
    assert!(!candidates.is_empty(), "a layer is stored in some way");
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (candidates[a], candidates[b]);
        let by_size = x.bytes.cmp(&y.bytes);
        by_size.then(x.cost.total_cmp(&y.cost)).then(a.cmp(&b))
    });
    let mut hull: Vec<usize> = Vec::new();
    for at in order {
        let new = candidates[at];
        // Also the dearer ones of equal size: they come later, at no lower cost.
        if hull
            .last()
            .is_some_and(|&last| new.cost >= candidates[last].cost)
        {
            continue;
        }
        while let [.., before, last] = hull[..] {
            let [before, last] = [before, last].map(|at| candidates[at]);
            if gain(before, last) > gain(last, new) {
                break;
            }
            hull.pop();
        }
        hull.push(at);
    }
    hull
}
