//! Grids and the search for their scales.

use crate::oracle;
use plateau::checkpoint::{ActivationFormat, LinearFormat, LinearShape};
use plateau::quantize::grid::{ClipSearch, Grid, GridConfig};
use plateau::quantize::linear::LinearPlan;
use plateau::tensor::{Bits, Granularity, WeightBits};
use plateau_shaders::pack;
use plateau_tests::{Rng, compare, tolerance};

/// Half a step, and what rounding the quotient adds.
fn half(step: f64) -> f64 {
    0.5 * step * (1.0 + tolerance::HALF_STEP.relative)
}

const GROUP_SIZES: [usize; 4] = [0, 32, 64, 128];

fn configs() -> impl Iterator<Item = GridConfig> {
    WeightBits::ALL.into_iter().flat_map(|bits| {
        [Granularity::PerChannel, Granularity::PerTensor]
            .into_iter()
            .flat_map(move |granularity| {
                GROUP_SIZES
                    .into_iter()
                    .filter(move |&size| size == 0 || bits == WeightBits::Int4)
                    .flat_map(move |group_size| {
                        [ClipSearch::OFF, ClipSearch::DEFAULT].map(|clip| GridConfig {
                            bits,
                            granularity,
                            group_size,
                            clip,
                        })
                    })
            })
    })
}

fn error(w: &[f32], importance: &[f64], grid: &Grid) -> f64 {
    let q = grid.round(w);
    let step = |at: usize| grid.step(at / grid.features, at % grid.features).size;
    let of = |at: usize| {
        let h = importance.get(at % grid.features).copied().unwrap_or(1.0);
        h * (f64::from(w[at]) - f64::from(q[at]) * step(at)).powi(2)
    };
    (0..w.len()).map(of).sum()
}

#[test]
fn rounding_is_the_nearest_step_and_within_half_of_one() {
    let mut rng = Rng::new(31);
    for (rows, features) in [(1, 1), (3, 37), (5, 131), (2, 256)] {
        let w = rng.outliers(rows, features, 0.5);
        for config in configs() {
            let grid = Grid::fit(&w, features, &[], config);
            let q_max = f64::from(config.bits.q_max());
            let q = grid.round(&w);
            for (at, (&q, &w)) in q.iter().zip(&w).enumerate() {
                let step = grid.step(at / features, at % features).size;
                assert_eq!(
                    f64::from(q),
                    oracle::round(w.into(), step, q_max),
                    "{config:?}"
                );
                let error = (f64::from(w) - f64::from(q) * step).abs();
                assert!(error <= half(step) || f64::from(q).abs() == q_max);
                if config.clip == ClipSearch::OFF && config.group_size == 0 {
                    assert!(error <= half(step), "nothing is clipped");
                }
            }
            let back = grid.dequantize(&q);
            assert!(grid.round(&back) == q, "values of the grid come back");
        }
    }
}

#[test]
fn scales_and_multipliers_have_the_format_of_the_checkpoint() {
    let mut rng = Rng::new(32);
    let (rows, features) = (3, 131);
    let w = rng.floats(rows * features, 1.0);
    for config in configs() {
        let grid = Grid::fit(&w, features, &[], config);
        let scales = match config.granularity {
            Granularity::PerChannel => rows,
            Granularity::PerTensor => 1,
        };
        assert_eq!(grid.scales.len(), scales);
        assert!(
            grid.scales
                .iter()
                .all(|scale| scale.is_normal() && *scale > 0.0)
        );
        let groups = pack::num_groups(features, config.group_size);
        for row in 0..rows {
            let multipliers = grid.row_multipliers(row);
            assert_eq!(multipliers.len(), groups);
            assert!(multipliers.iter().all(|m| (1..=16).contains(m)));
        }
    }
}

#[test]
fn a_search_never_loses_to_no_search() {
    let mut rng = Rng::new(33);
    let (rows, features) = (4, 160);
    // Values that crowd around 0: clipping pays at INT4.
    let w: Vec<f32> = rng
        .floats(rows * features, 1.0)
        .iter()
        .map(|w| w * w * w)
        .collect();
    let importance: Vec<f64> = rng
        .floats(features, 1.0)
        .iter()
        .map(|h| f64::from(h * h))
        .collect();
    for config in configs().filter(|config| config.clip != ClipSearch::OFF) {
        for importance in [&importance[..], &[]] {
            let of = |clip| {
                let grid = Grid::fit(&w, features, importance, GridConfig { clip, ..config });
                error(&w, importance, &grid)
            };
            let (searched, full) = (of(ClipSearch::DEFAULT), of(ClipSearch::OFF));
            assert!(
                searched <= full * (1.0 + tolerance::SAME_FORMULA.relative),
                "{config:?}: {searched} and {full}"
            );
            if config.bits == WeightBits::Int4 && config.group_size == 0 {
                assert!(searched < 0.9 * full, "{config:?}: {searched} and {full}");
            }
        }
    }
}

#[test]
fn the_search_takes_the_least_error_of_its_row_of_ratios() {
    let mut rng = Rng::new(34);
    let w: Vec<f32> = rng.floats(53, 1.0).iter().map(|w| w * w * w).collect();
    let clip = ClipSearch {
        lowest: 0.4,
        steps: 30,
    };
    let config = GridConfig {
        bits: WeightBits::Int4,
        granularity: Granularity::PerChannel,
        group_size: 0,
        clip,
    };
    let grid = Grid::fit(&w, w.len(), &[], config);
    let full = f64::from(pack::absmax(&w) / 7.0);
    let error_at = |scale: f64| {
        w.iter()
            .map(|&w| (f64::from(w) - scale * oracle::round(w.into(), scale, 7.0)).powi(2))
            .sum::<f64>()
    };
    let least = (0..=30)
        .map(|step| error_at(full * (1.0 - 0.6 * f64::from(step) / 30.0)))
        .fold(f64::INFINITY, f64::min);
    // The scale is rounded to f32, where the oracle's is not.
    let found = error_at(grid.scales[0].into());
    compare::close(&[found], &[least], tolerance::FLOAT_SUM).expect("the least error");
}

#[test]
fn a_plan_that_clips_rounds_with_less_error() {
    let mut rng = Rng::new(36);
    let (rows, features) = (6, 320);
    let w = rng.floats(rows * features, 1.0);
    let plan = LinearPlan {
        shape: LinearShape {
            name: "linear".to_owned(),
            in_features: features as u32,
            out_features: rows as u32,
            bias: false,
        },
        format: LinearFormat {
            weight_bits: WeightBits::Int4,
            weight_scale: Granularity::PerChannel,
            group_size: 0,
            activations: ActivationFormat::Dynamic(Bits::Int8),
        },
        input: None,
    };
    let [whole, clipped] = [ClipSearch::OFF, ClipSearch::DEFAULT].map(|clip| {
        let (quantized, _) = plan.quantize(&w, &[], &[], None, clip);
        let mut q = vec![0_i8; w.len()];
        let words = quantized.words.chunks_exact(quantized.words.len() / rows);
        for (words, q) in words.zip(q.chunks_exact_mut(features)) {
            pack::unpack_i4(words, q);
        }
        let scales = quantized.row_scales();
        let square =
            |at: usize| (f64::from(w[at] - scales[at / features] * f32::from(q[at]))).powi(2);
        (0..w.len()).map(square).sum::<f64>()
    });
    assert!(clipped < 0.95 * whole, "{clipped} and {whole}");
}

#[test]
fn groups_follow_their_own_range() {
    let mut rng = Rng::new(35);
    let mut w = rng.floats(257, 1.0);
    w[40] = 30.0;
    let fit = |group_size| {
        let config = GridConfig {
            bits: WeightBits::Int4,
            granularity: Granularity::PerChannel,
            group_size,
            clip: ClipSearch::OFF,
        };
        error(&w, &[], &Grid::fit(&w, 257, &[], config))
    };
    assert!(fit(32) < 0.7 * fit(0));
}

#[test]
fn zeros_stay_zero_on_every_grid() {
    for config in configs() {
        // The last is so small that its scale is subnormal.
        for value in [0.0, 1e-44] {
            let w = [value; 2 * 37];
            let grid = Grid::fit(&w, 37, &[0.0; 37], config);
            assert!(grid.scales.iter().all(|&scale| scale == 0.0));
            assert!(grid.round(&w).iter().all(|&q| q == 0));
        }
    }
}
