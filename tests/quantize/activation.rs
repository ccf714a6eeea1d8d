//! Calibration's windows, and the choice of a static scale.

use crate::oracle;
use plateau::quantize::activation::{ActivationStats, StaticChoice, choose_static};
use plateau::quantize::calibrate::Samples;
use plateau::quantize::flatten::FlatMap;
use plateau::quantize::recipe::Parts;
use plateau::tensor::Bits;
use plateau_tests::{Rng, compare, tolerance};
use std::collections::BTreeSet;

const BITS: [Bits; 2] = [Bits::Int4, Bits::Int8];

/// All rows sampled.
fn stats(x: &[f32], channels: usize) -> ActivationStats {
    let mut stats = ActivationStats::new(channels);
    stats.add(x, 0, 1);
    stats.finish();
    stats
}

fn added(choice: &StaticChoice) -> usize {
    choice.parts.iter().map(|&parts| parts as usize - 1).sum()
}

/// What the integers of the choice's map make of a row, and the squares of its error by channel.
fn errors(x: &[f32], channels: usize, choice: &StaticChoice, bits: Bits) -> Vec<f64> {
    let ones = vec![1; channels];
    let map = FlatMap::from_parts(choice.parts.clone(), ones, f32::INFINITY, 1);
    let step = f64::from(choice.threshold) / f64::from(bits.q_max());
    let mut squares = vec![0.0; channels];
    for row in x.chunks(channels) {
        let parts = oracle::flat_activations(&map, row, choice.threshold);
        let mut left: Vec<f64> = oracle::wide(row);
        let extra = map.words().iter().map(|word| (word & 0xff_ffff) as usize);
        for (part, source) in parts.into_iter().zip((0..channels).chain(extra)) {
            if source < channels {
                left[source] -= oracle::round(part, step, f64::from(bits.q_max())) * step;
            }
        }
        for (square, left) in squares.iter_mut().zip(left) {
            *square += left * left;
        }
    }
    let rows = (x.len() / channels) as f64;
    squares.into_iter().map(|square| square / rows).collect()
}

#[test]
fn the_expected_error_is_the_error_but_for_what_saturates() {
    let mut rng = Rng::new(61);
    let (rows, channels) = (50, 23);
    let x = rng.outliers(rows, channels, 2.0);
    let energy: Vec<f64> = (0..channels).map(|j| 1.0 + j as f64).collect();
    for bits in BITS {
        for parts in [Parts::None, Parts::Cover, Parts::Search] {
            let choice = choose_static(&stats(&x, channels), &energy, bits, parts, 12);
            let found = errors(&x, channels, &choice, bits);
            let what = format!("{bits:?} {parts:?}");
            if parts == Parts::Search {
                // Half a step at most is counted too much where a value saturates.
                let step = f64::from(choice.threshold) / f64::from(bits.q_max());
                for (expected, found) in choice.channel_errors.iter().zip(&found) {
                    let over = expected - found;
                    let rounding = tolerance::FLOAT_SUM.relative * found;
                    assert!(
                        over >= -rounding && over <= step * step / 4.0,
                        "{what}: {over}"
                    );
                }
            } else {
                compare::close(&choice.channel_errors, &found, tolerance::FLOAT_SUM)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            let errors = choice.channel_errors.iter().zip(&energy);
            let total: f64 = errors.map(|(e, w)| e * w).sum();
            compare::close(&[choice.error], &[total], tolerance::FLOAT_SUM).expect("their sum");
        }
    }
}

#[test]
fn channels_are_added_within_the_limit_and_never_raise_the_error() {
    let mut rng = Rng::new(62);
    let (rows, channels) = (64, 40);
    let x = rng.outliers(rows, channels, 1.0);
    let stats = stats(&x, channels);
    let energy = vec![1.0; channels];
    for bits in BITS {
        let of = |parts, limit| choose_static(&stats, &energy, bits, parts, limit);
        let none = of(Parts::None, 40);
        assert_eq!(added(&none), 0);
        let largest = stats.absmax.iter().copied().fold(0.0, f32::max);
        assert_eq!(none.threshold, largest);
        for parts in [Parts::Cover, Parts::Search] {
            let mut before = none.error;
            for limit in [0, 1, 5, 10, 40, 200] {
                let choice = of(parts, limit);
                assert!(added(&choice) <= limit, "{bits:?} {parts:?} {limit}");
                assert!(choice.error <= before, "{bits:?} {parts:?} {limit}");
                before = choice.error;
                if parts == Parts::Cover {
                    for (absmax, &parts) in stats.absmax.iter().zip(&choice.parts) {
                        let covered = f64::from(parts) * f64::from(choice.threshold);
                        assert!(f64::from(*absmax) <= covered);
                    }
                }
            }
            assert!(before < 0.9 * none.error, "{bits:?} {parts:?}");
        }
        assert!(of(Parts::Search, 10).error <= of(Parts::Cover, 10).error);
    }
}

#[test]
fn zeros_and_extremes_have_a_choice() {
    let energy = vec![1.0; 3];
    for bits in BITS {
        for parts in [Parts::None, Parts::Cover, Parts::Search] {
            let zeros = choose_static(&stats(&[0.0; 12], 3), &energy, bits, parts, 3);
            assert_eq!(zeros, StaticChoice::exact(3));
            for largest in [1e-40_f32, 1e-30, 1e30, f32::MAX] {
                let x = [largest, 0.0, largest / 4.0];
                let choice = choose_static(&stats(&x, 3), &energy, bits, parts, 3);
                let scale = choice.threshold / bits.q_max() as f32;
                assert!(
                    scale > 0.0 && (1.0 / scale).is_finite(),
                    "{bits:?} {parts:?} {largest}: {scale}"
                );
                assert!(choice.parts.iter().all(|&parts| parts >= 1));
            }
        }
    }
}

#[test]
fn samples_are_windows_of_the_text_that_do_not_overlap() {
    let ids: Vec<u32> = (10..210).collect();
    for bos in [None, Some(1)] {
        let text = 16 - usize::from(bos.is_some());
        let of = |count, seed| Samples::new(&ids, bos, 16, count, seed).map(|s| s.windows);
        let some = of(5, 3).expect("enough text");
        assert_eq!(some.len(), 5);
        let mut starts = Vec::new();
        for window in &some {
            assert_eq!(window.len(), 16);
            let tokens = &window[16 - text..];
            assert_eq!(window[..16 - text], bos.into_iter().collect::<Vec<_>>());
            let start = tokens[0] - 10;
            assert!((start as usize).is_multiple_of(text));
            assert!(
                tokens
                    .iter()
                    .copied()
                    .eq(10 + start..10 + start + text as u32)
            );
            starts.push(start);
        }
        assert!(starts.is_sorted() && starts.iter().collect::<BTreeSet<_>>().len() == 5);
        assert_eq!(of(5, 3), Some(some.clone()));
        assert!((4..20).any(|seed| of(5, seed) != Some(some.clone())));
        // All there are, where more are asked for.
        assert_eq!(of(1000, 3).map(|w| w.len()), Some(200 / text));
    }
    assert!(Samples::new(&ids[..10], None, 16, 5, 0).is_none());
    assert!(Samples::new(&ids, None, 0, 5, 0).is_none());
    assert!(Samples::new(&ids, Some(1), 1, 5, 0).is_none());
    assert!(Samples::new(&ids, None, 16, 0, 0).is_none());
}

#[test]
fn a_tail_has_the_largest_values_whatever_the_batches() {
    let mut rng = Rng::new(63);
    let (rows, channels) = (1000, 19);
    let x = rng.outliers(rows, channels, 1.0);
    let whole = stats(&x, channels);
    let mut batches = ActivationStats::new(channels);
    for (at, batch) in x.chunks(37 * channels).enumerate() {
        batches.add(batch, at * 37, 10);
    }
    batches.finish();
    assert_eq!(batches.absmax, whole.absmax);
    assert_eq!(batches.rows, rows);
    assert_eq!(batches.tail, whole.tail);
    for (j, tail) in whole.tail.iter().enumerate() {
        let mut column: Vec<f32> = x
            .iter()
            .skip(j)
            .step_by(channels)
            .map(|x| x.abs())
            .collect();
        let every_tenth: Vec<f32> = column.iter().step_by(10).copied().collect();
        assert_eq!(batches.sample[j], every_tenth);
        column.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(*tail, column[..tail.len()]);
        assert_eq!(tail.len(), 64);
    }
}
