//! GPTQ against its textbook form; Hessians against dense ones.

use crate::oracle;
use plateau::quantize::flatten::FlatMap;
use plateau::quantize::gptq::{Factor, Gptq, GptqConfig, GptqError, Hessian, Order, gptq};
use plateau::quantize::grid::{ClipSearch, Grid, GridConfig};
use plateau::tensor::{Granularity, WeightBits};
use plateau_tests::{Rng, compare, tolerance};

const ORDERS: [Order; 2] = [Order::Natural, Order::Descending];

fn grid(w: &[f32], features: usize, bits: WeightBits, group_size: usize) -> Grid {
    let config = GridConfig {
        bits,
        granularity: Granularity::PerChannel,
        group_size,
        clip: ClipSearch::OFF,
    };
    Grid::fit(w, features, &[], config)
}

/// Inputs whose features depend on each other: what gives GPTQ something to do.
fn correlated(rng: &mut Rng, rows: usize, features: usize) -> Vec<f32> {
    let mut x = rng.outliers(rows, features, 1.0);
    for row in x.chunks_mut(features) {
        for j in 1..features {
            row[j] += 0.7 * row[j - 1];
        }
    }
    x
}

fn hessian(x: &[f32], features: usize) -> Hessian {
    oracle::hessian(&oracle::gram(&oracle::wide(x), features), features)
}

fn dense(hessian: &Hessian) -> Vec<f64> {
    let n = hessian.features();
    (0..n * n).map(|at| hessian.at(at / n, at % n)).collect()
}

/// Of one row, by the oracle.
fn objective(w: &[f32], q: &[i8], row: usize, grid: &Grid, h: &[f64]) -> f64 {
    let delta: Vec<f64> = (0..w.len())
        .map(|j| f64::from(w[j]) - f64::from(q[j]) * grid.step(row, j).size)
        .collect();
    oracle::objective(&delta, h)
}

/// Rows that GPTQ made better than rounding does.
fn improved_rows(found: &Gptq) -> usize {
    let pairs = found.errors.iter().zip(&found.rounding_errors);
    pairs.filter(|(error, rounding)| error < rounding).count()
}

fn close(found: &[f64], expected: &[f64], tolerance: tolerance::Tolerance) {
    compare::close(found, expected, tolerance).expect("equal to the oracle");
}

#[test]
fn a_hessian_takes_rows_from_elsewhere_and_adds_them() {
    let mut rng = Rng::new(42);
    // Widths beside those of panels; rows that are longer than the matrix, as a device pads them.
    for features in [1, 31, 32, 33, 64, 97] {
        let x = correlated(&mut rng, 50, features);
        let gram = oracle::gram(&oracle::wide(&x), features);
        let mut hessian = hessian(&x, features);
        assert_eq!(dense(&hessian), gram);
        let stride = features + 3;
        let padded: Vec<u32> = (0..(features * stride) as u32).collect();
        hessian.add_upper_rows(0, stride, &padded, |at| {
            gram[at as usize / stride * features + at as usize % stride]
        });
        let doubled: Vec<f64> = gram.iter().map(|h| 2.0 * h).collect();
        assert_eq!(dense(&hessian), doubled);
        let diagonal: Vec<f64> = (0..features).map(|i| doubled[i * features + i]).collect();
        assert_eq!(hessian.diagonal(), diagonal);
    }
}

#[test]
fn gptq_equals_the_textbook() {
    let mut rng = Rng::new(43);
    // Features around a panel's width; rows around those that are quantized together.
    for (rows, features) in [(1, 1), (3, 7), (17, 31), (2, 33), (5, 40)] {
        let x = correlated(&mut rng, 3 * features, features);
        let hessian = hessian(&x, features);
        let diagonal = hessian.diagonal();
        let w = rng.floats(rows * features, 1.0);
        for order in ORDERS {
            for (bits, group_size) in [
                (WeightBits::Int4, 0),
                (WeightBits::Int4, 32),
                (WeightBits::Int8, 0),
            ] {
                let grid = grid(&w, features, bits, group_size);
                let config = GptqConfig {
                    damping: 0.02,
                    order,
                };
                let factor = Factor::new(&hessian, config).expect("positive definite");
                assert_eq!(factor.damping_share, 0.02);
                let found = gptq(&w, &factor, &grid);

                let mut positions: Vec<usize> = (0..features).collect();
                if order == Order::Descending {
                    positions.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
                }
                let h = dense(&hessian);
                let mut damped = h.clone();
                let added = 0.02 * diagonal.iter().sum::<f64>() / features as f64;
                (0..features).for_each(|j| damped[j * features + j] += added);
                for row in 0..rows {
                    let at = row * features..(row + 1) * features;
                    let steps: Vec<f64> = (0..features).map(|j| grid.step(row, j).size).collect();
                    let expected: Vec<i8> = oracle::gptq(
                        &oracle::wide(&w[at.clone()]),
                        &damped,
                        &positions,
                        &steps,
                        bits.q_max().into(),
                    )
                    .iter()
                    .map(|&q| q as i8)
                    .collect();
                    let rounded = grid.round_row(row, &w[at.clone()]);
                    let of = |q: &[i8]| objective(&w[at.clone()], q, row, &grid, &h);
                    let better = if of(&expected) < of(&rounded) {
                        &expected
                    } else {
                        &rounded
                    };
                    assert_eq!(
                        &found.q[at.clone()],
                        better,
                        "row {row} of {rows}x{features}"
                    );
                    close(
                        &[found.errors[row], found.rounding_errors[row]],
                        &[of(better), of(&rounded)],
                        tolerance::DAMPED_OBJECTIVE,
                    );
                }
            }
        }
    }
}

#[test]
fn gptq_is_never_worse_than_rounding_and_mostly_better() {
    let mut rng = Rng::new(44);
    let (rows, features) = (48, 130);
    let x = correlated(&mut rng, 400, features);
    let hessian = hessian(&x, features);
    let h = dense(&hessian);
    let w = rng.floats(rows * features, 1.0);
    for order in ORDERS {
        let factor = Factor::new(
            &hessian,
            GptqConfig {
                order,
                ..GptqConfig::default()
            },
        )
        .expect("positive definite");
        for (bits, group_size) in [
            (WeightBits::Int4, 0),
            (WeightBits::Int4, 64),
            (WeightBits::Int8, 0),
        ] {
            let grid = grid(&w, features, bits, group_size);
            let found = gptq(&w, &factor, &grid);
            let rounded = grid.round(&w);
            for (row, w) in w.chunks(features).enumerate() {
                let of = |q: &[i8]| objective(w, &q[row * features..][..features], row, &grid, &h);
                assert!(of(&found.q) <= of(&rounded));
            }
            assert!(improved_rows(&found) > rows * 3 / 4);
            let [kept, rounding] =
                [&found.errors, &found.rounding_errors].map(|errors| errors.iter().sum::<f64>());
            assert!(kept < 0.7 * rounding, "{kept} and {rounding}");
        }
    }
}

#[test]
fn with_an_identity_hessian_gptq_is_rounding() {
    let mut rng = Rng::new(45);
    for features in [1, 31, 64, 77] {
        let ones: Vec<f64> = (0..features * features)
            .map(|at| f64::from(u8::from(at / features == at % features)))
            .collect();
        let identity = oracle::hessian(&ones, features);
        for order in ORDERS {
            let factor = Factor::new(
                &identity,
                GptqConfig {
                    order,
                    ..GptqConfig::default()
                },
            )
            .expect("positive definite");
            let w = rng.floats(20 * features, 1.0);
            for group_size in [0, 32] {
                let grid = grid(&w, features, WeightBits::Int4, group_size);
                let Gptq {
                    q,
                    errors,
                    rounding_errors,
                } = gptq(&w, &factor, &grid);
                assert_eq!(q, grid.round(&w));
                assert_eq!(errors, rounding_errors);
            }
        }
    }
}

#[test]
fn a_flattened_problem_with_repeated_columns_has_a_factor() {
    let mut rng = Rng::new(46);
    let (rows, features) = (8, 50);
    let x = rng.outliers(300, features, 4.0);
    let mut absmax = vec![0.0; features];
    plateau::quantize::smooth::widen_column_absmax(&mut absmax, &x);
    // W is split too: its channels of X are repeated exactly, and padding is always 0.
    let map = FlatMap::new(&absmax, 4.0, &vec![1.0; features], 0.4, 8).expect("few parts");
    let flat = map.flat_features();
    let integers: Vec<f64> = x
        .chunks(features)
        .flat_map(|row| oracle::flat_activations(&map, row, 4.0))
        .map(|part| oracle::round(part, 4.0 / 7.0, 7.0))
        .collect();
    let hessian = oracle::hessian(&oracle::gram(&integers, flat), flat);
    let w: Vec<f32> = rng
        .floats(rows * features, 1.0)
        .chunks(features)
        .flat_map(|row| map.flatten_weights(row))
        .collect();
    let grid = grid(&w, flat, WeightBits::Int4, 0);
    for order in ORDERS {
        let factor = Factor::new(
            &hessian,
            GptqConfig {
                order,
                ..GptqConfig::default()
            },
        )
        .expect("damped");
        let found = gptq(&w, &factor, &grid);
        assert!(improved_rows(&found) > 0);
        // Without damping it is singular: raised, and said.
        let none = GptqConfig {
            damping: 0.0,
            order,
        };
        let raised = Factor::new(&hessian, none).expect("damping is raised");
        assert!(raised.damping_share > 0.0);
        let found = gptq(&w, &raised, &grid);
        assert!(found.errors.iter().all(|error| error.is_finite()));
    }
}

#[test]
fn features_that_are_always_zero_are_rounded() {
    let mut rng = Rng::new(47);
    let (rows, features) = (5, 40);
    let mut x = correlated(&mut rng, 100, features);
    let dead = |j: usize| j % 7 == 3;
    for row in x.chunks_mut(features) {
        (0..features)
            .filter(|&j| dead(j))
            .for_each(|j| row[j] = 0.0);
    }
    let w = rng.floats(rows * features, 1.0);
    let grid = grid(&w, features, WeightBits::Int4, 0);
    let rounded = grid.round(&w);
    for damping in [0.0, 0.01] {
        for order in ORDERS {
            let factor = Factor::new(&hessian(&x, features), GptqConfig { damping, order })
                .expect("positive definite but for the zeros");
            let found = gptq(&w, &factor, &grid);
            let at_dead = (0..rows * features).filter(|at| dead(at % features));
            at_dead.for_each(|at| assert_eq!(found.q[at], rounded[at]));
        }
    }
    // No inputs at all.
    let factor = Factor::new(&Hessian::new(features), GptqConfig::default()).expect("all zero");
    let found = gptq(&w, &factor, &grid);
    assert_eq!((found.q, found.errors), (rounded, vec![0.0; rows]));
}

#[test]
fn weights_of_zeros_stay_zero() {
    let mut rng = Rng::new(48);
    let x = correlated(&mut rng, 100, 40);
    let factor = Factor::new(&hessian(&x, 40), GptqConfig::default()).expect("positive definite");
    let w = vec![0.0; 3 * 40];
    let found = gptq(&w, &factor, &grid(&w, 40, WeightBits::Int4, 32));
    assert_eq!((found.q, found.errors), (vec![0; 120], vec![0.0; 3]));
}

#[test]
fn a_hessian_that_is_none_is_an_error() {
    let with = |value: f64| {
        let hessian = oracle::hessian(&[1.0, 0.0, 0.0, value], 2);
        Factor::new(&hessian, GptqConfig::default()).err()
    };
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            with(value),
            Some(GptqError::Diagonal { feature: 1, .. })
        ));
    }
    let odd = oracle::hessian(&[1.0, f64::NAN, f64::NAN, 1.0], 2);
    assert!(matches!(
        Factor::new(&odd, GptqConfig::default()).err(),
        Some(GptqError::NotPositive { .. })
    ));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut rng = Rng::new(49);
    let (rows, features) = (40, 300);
    let x = correlated(&mut rng, 500, features);
    let w = rng.floats(rows * features, 1.0);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            let hessian = hessian(&x, features);
            let config = GridConfig {
                bits: WeightBits::Int4,
                granularity: Granularity::PerTensor,
                group_size: 64,
                clip: ClipSearch::DEFAULT,
            };
            let grid = Grid::fit(&w, features, &hessian.diagonal(), config);
            let factor = Factor::new(&hessian, GptqConfig::default()).expect("positive definite");
            (dense(&hessian), gptq(&w, &factor, &grid), grid)
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}
