//! The refit of weights to quantized inputs: the solver against its own product, and the error that it takes away.

use crate::oracle;
use plateau::quantize::gptq::{Factor, GptqConfig, Hessian, Order, SOLVED};
use plateau::quantize::refit::RightHand;
use plateau_tests::Rng;
use plateau_tests::tolerance::{DAMPED_OBJECTIVE, FLOAT_SUM};

fn integers(rows: usize, features: usize, seed: u64) -> Vec<i8> {
    let mut rng = Rng::new(seed);
    (0..rows * features)
        .map(|_| (rng.below(255) as i32 - 127) as i8)
        .collect()
}

fn hessian(z: &[i8], features: usize) -> Hessian {
    let wide: Vec<f64> = z.iter().map(|z| f64::from(*z)).collect();
    oracle::hessian(&oracle::gram(&wide, features), features)
}

/// `zᵀX` of z [rows, features] and x [rows, columns].
fn cross(z: &[i8], x: &[f32], features: usize) -> Vec<f32> {
    let rows = z.len() / features;
    let columns = x.len() / rows;
    let mut sums = vec![0.0_f64; features * columns];
    for (z, x) in z.chunks_exact(features).zip(x.chunks_exact(columns)) {
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += f64::from(z[at / columns]) * f64::from(x[at % columns]);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[test]
fn a_solution_gives_the_right_hand_side_back() {
    // One panel and less, and some.
    for (features, order) in [
        (1, Order::Natural),
        (31, Order::Natural),
        (33, Order::Descending),
        (70, Order::Descending),
    ] {
        let z = integers(2 * features + 5, features, features as u64);
        let hessian = hessian(&z, features);
        let config = GptqConfig {
            damping: 0.05,
            order,
        };
        let factor = Factor::new(&hessian, config).expect("positive definite");
        let mean = hessian.diagonal().iter().sum::<f64>() / features as f64;
        let mut rng = Rng::new(9);
        let expected: Vec<f64> = (0..features * SOLVED)
            .map(|_| f64::from(rng.unit()) * mean)
            .collect();
        let mut solution = expected.clone();
        factor.solve(&mut solution);
        for a in 0..features {
            for output in 0..SOLVED {
                let product: f64 = (0..features)
                    .map(|b| {
                        let damping = if a == b {
                            factor.damping_share * mean
                        } else {
                            0.0
                        };
                        (hessian.at(a, b) + damping) * solution[b * SOLVED + output]
                    })
                    .sum();
                let error = (product - expected[a * SOLVED + output]).abs();
                assert!(
                    error <= DAMPED_OBJECTIVE.relative * mean,
                    "{features}: {error} of {mean}"
                );
            }
        }
    }
}

#[test]
fn a_refit_takes_error_away_and_leaves_exact_inputs_alone() {
    // More outputs than are solved together.
    let (rows, features, outputs, scale) = (200, 24, SOLVED + 5, 0.01_f32);
    let z = integers(rows, features, 3);
    let factor =
        Factor::new(&hessian(&z, features), GptqConfig::default()).expect("positive definite");
    let mut rng = Rng::new(4);
    let w = rng.floats(outputs * features, 1.0);
    let missing = |x: &[f32], v: &[f32]| -> f64 {
        let mut sum = 0.0;
        for (x, z) in x.chunks_exact(features).zip(z.chunks_exact(features)) {
            for (w, v) in w.chunks_exact(features).zip(v.chunks_exact(features)) {
                let of = |x: f64, w: &f32| x * f64::from(*w);
                let exact: f64 = x.iter().zip(w).map(|(x, w)| of(f64::from(*x), w)).sum();
                let found = z.iter().zip(v).map(|(z, v)| of(f64::from(*z), v));
                let found = f64::from(scale) * found.sum::<f64>();
                sum += (exact - found) * (exact - found);
            }
        }
        sum
    };
    let exact: Vec<f32> = z.iter().map(|z| scale * f32::from(*z)).collect();
    // A channel that saturates, a mixture of two others, and noise.
    let mut rng = Rng::new(5);
    let mut lossy = exact.clone();
    for row in lossy.chunks_exact_mut(features) {
        row[0] *= 1.5;
        row[1] += 0.5 * row[2];
        row[3] += 0.1 * rng.unit();
    }
    for (x, much) in [(&exact, false), (&lossy, true)] {
        let mut v = w.clone();
        // In two bands.
        let inputs = cross(&z, x, features);
        let (some, rest) = inputs.split_at(5 * features);
        // Of the outputs, those that are solved together after others; debt is asked of all.
        let debt = Rng::new(6).floats(features * outputs, 1e-3);
        let mut whole = v.clone();
        for (v, ends) in [
            (&mut whole, &[0, outputs][..]),
            (&mut v, &[0, SOLVED, outputs]),
        ] {
            for ends in ends.windows(2) {
                let rows = ends[0] * features..ends[1] * features;
                let mut fit = RightHand::new(features, ends[0]..ends[1]);
                fit.add_inputs(0, some, &w[rows.clone()]);
                fit.add_inputs(5, rest, &w[rows.clone()]);
                fit.add_debt(0, &debt[..3 * outputs], outputs);
                fit.add_debt(3, &debt[3 * outputs..], outputs);
                fit.refit(&mut v[rows], scale, &factor);
            }
        }
        assert_eq!(v, whole);
        let (before, after) = (missing(x, &w), missing(x, &v));
        if much {
            assert!(after < 0.02 * before, "{after} of {before}");
        } else {
            let moved = v
                .iter()
                .zip(&w)
                .map(|(v, w)| (v - w).abs())
                .fold(0.0, f32::max);
            assert!(f64::from(moved) < FLOAT_SUM.relative, "{moved}");
        }
    }
}
