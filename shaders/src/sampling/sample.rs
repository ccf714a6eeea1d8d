//! A random draw with top-k, top-p, min-p and temperature. Shapes and formula: sample.wgsl.

use crate::kernel::{Access, Call, Kernel};
use crate::sampling::advance;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub const KERNEL: Kernel = Kernel {
    name: "sample",
    source: &[
        include_str!("sample.wgsl"),
        include_str!("advance.wgsl"),
        include_str!("order_key.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub vocab: u32,
    /// 0: all.
    pub top_k: u32,
    /// 1 or more: all.
    pub top_p: f32,
    /// 0: all.
    pub min_p: f32,
    /// 1 / temperature.
    pub inv_temp: f32,
    pub seed_lo: u32,
    pub seed_hi: u32,
    /// Places of a sequence's history, at least 1.
    pub window: u32,
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
}

fn run(call: &mut Call<'_>) {
    // The second binding, the best of each part, is known from the logits.
    reference(
        &call.params(),
        call.read(1),
        call.write(3),
        call.write(4),
        call.write(5),
    );
}

/// The definition of `sample`; see the header of sample.wgsl for shapes.
pub fn reference(
    params: &Params,
    logits: &[f32],
    tokens: &mut [u32],
    row_info: &mut [[u32; 2]],
    history: &mut [u32],
) {
    let rows = logits
        .par_chunks_exact(params.vocab as usize)
        .zip(&*row_info);
    let drawn: Vec<u32> = rows
        .take(params.rows as usize)
        .map(|(logits, &[sequence, position])| {
            draw(params, logits, uniform(params, sequence, position))
        })
        .collect();
    for (row, token) in drawn.into_iter().enumerate() {
        advance(params.window, row, token, tokens, row_info, history);
    }
}

/// The random number of a position, in 0..1.
pub fn uniform(params: &Params, sequence: u32, position: u32) -> f64 {
    f64::from(hash4([params.seed_lo, params.seed_hi, sequence, position]) >> 8) / f64::from(1 << 24)
}

/// pcg4d (Jarzynski and Olano, 2020), one word of it.
fn hash4(counter: [u32; 4]) -> u32 {
    let mut v = counter.map(|word| word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 4]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
    };
    mix(&mut v);
    v = v.map(|word| word ^ word >> 16);
    mix(&mut v);
    v[0]
}

/// The token that `u` (in 0..1) draws from one row of logits.
pub fn draw(params: &Params, logits: &[f32], u: f64) -> u32 {
    let mut candidates: Vec<(usize, f64)> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| !logit.is_nan())
        .map(|(i, &logit)| (i, f64::from(logit)))
        .collect();
    let largest = candidates
        .iter()
        .fold(f64::NEG_INFINITY, |largest, &(_, logit)| largest.max(logit));
    let weight = |logit: f64, inv_temp: f64| {
        if logit == largest {
            1.0
        } else {
            libm::exp((logit - largest) * inv_temp)
        }
    };

    let top_k = params.top_k as usize;
    if 0 < top_k && top_k < candidates.len() {
        let kth = descending(&candidates)[top_k - 1];
        candidates.retain(|&(_, logit)| logit >= kth);
    }
    if params.top_p < 1.0 {
        let total: f64 = candidates
            .iter()
            .map(|&(_, logit)| weight(logit, 1.0))
            .sum();
        let mut mass = 0.0;
        let last = descending(&candidates).into_iter().find(|&logit| {
            mass += weight(logit, 1.0);
            mass >= f64::from(params.top_p) * total
        });
        candidates.retain(|&(_, logit)| last.is_none_or(|last| logit >= last));
    }
    candidates
        .retain(|&(_, logit)| params.min_p <= 0.0 || weight(logit, 1.0) >= f64::from(params.min_p));

    let weights: Vec<f64> = candidates
        .iter()
        .map(|&(_, logit)| weight(logit, f64::from(params.inv_temp)))
        .collect();
    pick(&weights, u).map_or(0, |chosen| candidates[chosen].0 as u32)
}

fn descending(candidates: &[(usize, f64)]) -> Vec<f64> {
    let mut logits: Vec<f64> = candidates.iter().map(|&(_, logit)| logit).collect();
    logits.sort_by(|a, b| b.total_cmp(a));
    logits
}

/// The first index at which the running sum of the weights exceeds `u` times their total.
fn pick(weights: &[f64], u: f64) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut running = 0.0;
    let above = weights.iter().position(|weight| {
        running += weight;
        running > u * total
    });
    above.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::argmax_parts;

    const ALL: Params = Params {
        rows: 1,
        vocab: 8,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        inv_temp: 1.0,
        seed_lo: 1,
        seed_hi: 0,
        window: 1,
    };
    const LOGITS: [f32; 8] = [0.5, -1.0, 2.0, 1.0, f32::NEG_INFINITY, 2.0, -3.0, 0.0];

    /// How often each token is drawn over positions 0..count.
    fn counts(params: &Params, count: u32) -> Vec<f64> {
        let mut counts = vec![0.0; LOGITS.len()];
        for position in 0..count {
            let mut token = [0];
            let mut row_info = [[3, position]];
            reference(params, &LOGITS, &mut token, &mut row_info, &mut [0; 4]);
            counts[token[0] as usize] += 1.0;
        }
        counts
    }

    /// Chi-square of draws against softmax(LOGITS * inv_temp) over the given tokens; the others must not be drawn.
    fn chi_square(params: &Params, candidates: &[usize]) -> f64 {
        const COUNT: u32 = 40_000;
        let counts = counts(params, COUNT);
        let weight = |i: usize| (f64::from(LOGITS[i]) * f64::from(params.inv_temp)).exp();
        let total: f64 = candidates.iter().map(|&i| weight(i)).sum();
        assert_eq!(
            candidates.iter().map(|&i| counts[i]).sum::<f64>(),
            f64::from(COUNT),
            "{counts:?}"
        );
        let terms = candidates.iter().map(|&i| {
            let expected = f64::from(COUNT) * weight(i) / total;
            (counts[i] - expected).powi(2) / expected
        });
        terms.sum()
    }

    // The 99.9 % quantile of chi-square with 6 degrees of freedom is 22.5, with fewer it is less.
    const CHI_SQUARE_LIMIT: f64 = 22.5;

    #[test]
    fn draws_follow_the_distribution() {
        let tokens = [0, 1, 2, 3, 5, 6, 7];
        for (seed, inv_temp) in [(1, 1.0), (2, 0.5), (3, 2.0), (4, 0.1)] {
            let chi_square = chi_square(
                &Params {
                    seed_lo: seed,
                    inv_temp,
                    ..ALL
                },
                &tokens,
            );
            assert!(chi_square < CHI_SQUARE_LIMIT, "seed {seed}: {chi_square}");
        }
    }

    #[test]
    fn filters_keep_what_they_say_and_ties_stay_together() {
        // Tokens 2 and 5 are equal: the third largest is 1.0 (token 3).
        assert!(chi_square(&Params { top_k: 3, ..ALL }, &[2, 3, 5]) < CHI_SQUARE_LIMIT);
        assert!(chi_square(&Params { top_k: 1, ..ALL }, &[2, 5]) < CHI_SQUARE_LIMIT);
        // exp: 7.39 twice, 2.72, 1.65, 1, 0.37, 0.05; total 20.56. 0.72 of it needs one of each tie, so 0.5 keeps both.
        assert!(chi_square(&Params { top_p: 0.5, ..ALL }, &[2, 5]) < CHI_SQUARE_LIMIT);
        assert!(chi_square(&Params { top_p: 0.0, ..ALL }, &[2, 5]) < CHI_SQUARE_LIMIT);
        assert!(chi_square(&Params { top_p: 0.8, ..ALL }, &[2, 3, 5]) < CHI_SQUARE_LIMIT);
        // Of the three that top-k leaves, 0.9 needs all, 0.8 only the two: the share is that of what is left.
        assert!(
            chi_square(
                &Params {
                    top_k: 3,
                    top_p: 0.83,
                    ..ALL
                },
                &[2, 5]
            ) < CHI_SQUARE_LIMIT
        );
        // 0.2 of the largest: 1.48 and more.
        assert!(chi_square(&Params { min_p: 0.2, ..ALL }, &[0, 2, 3, 5]) < CHI_SQUARE_LIMIT);
        // The temperature comes last: it does not change what the filters keep.
        assert!(
            chi_square(
                &Params {
                    min_p: 0.2,
                    top_p: 0.8,
                    inv_temp: 0.3,
                    ..ALL
                },
                &[2, 3, 5]
            ) < CHI_SQUARE_LIMIT
        );
    }

    #[test]
    fn one_candidate_is_the_largest() {
        for i in 0..200u32 {
            let logits: Vec<f32> = (0..97)
                .map(|j| (hash4([i, j, 0, 0]) >> 8) as f32 / 1e6)
                .collect();
            let params = Params {
                vocab: 97,
                top_k: 1,
                ..ALL
            };
            assert_eq!(
                draw(&params, &logits, f64::from(i) / 200.0),
                argmax_parts::largest(&logits) as u32
            );
        }
    }

    #[test]
    fn low_temperature_sharpens_and_high_temperature_flattens() {
        let share = |inv_temp: f32| {
            counts(
                &Params {
                    inv_temp,
                    top_k: 3,
                    ..ALL
                },
                5000,
            )[3] / 5000.0
        };
        assert!(share(10.0) < 0.01);
        assert!((share(0.001) - 1.0 / 3.0).abs() < 0.03);
    }

    #[test]
    fn sequences_positions_and_seeds_draw_different_numbers() {
        let mut seen: Vec<u64> = Vec::new();
        for i in 0..100 {
            for params in [
                ALL,
                Params { seed_lo: 2, ..ALL },
                Params { seed_hi: 1, ..ALL },
            ] {
                seen.extend(
                    [uniform(&params, 0, i), uniform(&params, i + 1, 1_000)].map(f64::to_bits),
                );
            }
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert!(
            count - seen.len() <= 1,
            "{} of {count} are repeated",
            count - seen.len()
        );
    }

    #[test]
    fn rows_without_numbers_give_a_token() {
        assert_eq!(draw(&ALL, &[f32::NAN; 8], 0.7), 0);
        assert_eq!(draw(&ALL, &[f32::NAN, f32::NEG_INFINITY, f32::NAN], 0.7), 1);
        assert_eq!(draw(&ALL, &[-4.0, f32::INFINITY, 1.0], 0.999), 1);
    }
}
