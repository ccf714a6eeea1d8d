//! Smoothing keeps products.

use crate::oracle;
use plateau::quantize::layer::Producer;
use plateau::quantize::smooth::{
    balancing_scales, bound_rows, divide_rows, multiply_columns, smoothing_scales,
    widen_column_absmax,
};
use plateau_tests::{Rng, compare, model, tolerance};

#[test]
fn scales_are_the_formula() {
    let [x, w] = [[8.0, 2.0, 100.0], [0.5, 2.0, 0.01]];
    assert_eq!(smoothing_scales(&x, &w, 0.5), [4.0, 1.0, 100.0]);
    assert_eq!(smoothing_scales(&x, &w, 1.0), x);
    assert_eq!(smoothing_scales(&x, &w, 0.0), [2.0, 0.5, 100.0]);
}

#[test]
fn a_channel_of_zeros_and_extremes_have_usable_scales() {
    let scales = smoothing_scales(&[0.0, 3.0, 3e38, 1e-44], &[2.0, 0.0, 1e-44, 3e38], 0.5);
    assert_eq!(scales[..2], [1.0, 1.0]);
    assert!(scales.iter().all(|scale| scale.is_normal() && *scale > 0.0));
}

#[test]
fn smoothing_keeps_the_product() {
    let mut rng = Rng::new(11);
    let (rows, features, out) = (5, 37, 7);
    let mut x = rng.outliers(rows, features, 3.0);
    let mut w = rng.floats(out * features, 0.2);
    let expected = oracle::product(&oracle::wide(&x), &oracle::wide(&w), features);
    let [mut x_absmax, mut w_absmax] = [vec![0.0; features], vec![0.0; features]];
    widen_column_absmax(&mut x_absmax, &x);
    widen_column_absmax(&mut w_absmax, &w);
    let scales = smoothing_scales(&x_absmax, &w_absmax, 0.5);
    // Channel j of X is what row j of its producer makes: a column here.
    let mut producer: Vec<f32> = (0..features)
        .flat_map(|j| x.iter().skip(j).step_by(features).copied())
        .collect();
    divide_rows(&mut producer, &scales);
    for (at, x) in x.iter_mut().enumerate() {
        *x = producer[at % features * rows + at / features];
    }
    multiply_columns(&mut w, &scales);
    let found = oracle::product(&oracle::wide(&x), &oracle::wide(&w), features);
    compare::close(&found, &expected, tolerance::FLOAT_FEW_ULP).expect("the same product");
    // Both sides share the outliers now.
    let mut after = vec![0.0; features];
    widen_column_absmax(&mut after, &x);
    let spread = |absmax: &[f32]| {
        absmax.iter().copied().fold(0.0, f32::max) / absmax.iter().copied().fold(f32::MAX, f32::min)
    };
    assert!(spread(&after) < spread(&x_absmax).sqrt() * 2.0);
}

#[test]
fn balanced_scales_are_the_formula_and_cancel_what_was_scaled_before() {
    // x^(1/3) / w^(2/3) is 2 / 4 and 1 / 1: over their geometric mean.
    let mean = 0.5_f64.sqrt();
    let found = balancing_scales(&[8.0, 1.0], &[8.0, 1.0]);
    let expected = [0.5 / mean, 1.0 / mean];
    let found: Vec<f64> = found.into_iter().map(f64::from).collect();
    compare::close(&found, &expected, tolerance::FLOAT_FEW_ULP).expect("the formula");
    assert_eq!(balancing_scales(&[0.0, 3.0], &[2.0, 0.0]), [1.0, 1.0]);
    // An outlier that was put in, with its column divided: what is left of it is the same as without.
    let mut rng = Rng::new(12);
    let [x, w] = [(); 2].map(|()| {
        let values = rng.outliers(1, 40, 2.0);
        values.iter().map(|v| v.abs() + 0.1).collect::<Vec<f32>>()
    });
    let factors: Vec<f32> = (0..40)
        .map(|j| if j % 7 == 0 { 32.0 } else { 1.0 })
        .collect();
    let by = |values: &[f32], inverse: bool| -> Vec<f32> {
        let pairs = values.iter().zip(&factors);
        pairs
            .map(|(v, f)| if inverse { v / f } else { v * f })
            .collect()
    };
    let smoothed = |x: &[f32], w: &[f32]| -> Vec<f64> {
        let scales = balancing_scales(x, w);
        let mut ratios: Vec<f64> = x
            .iter()
            .zip(scales)
            .map(|(x, s)| f64::from(x / s))
            .collect();
        // Up to one factor for the whole tensor, which a threshold follows.
        let first = ratios[0];
        ratios.iter_mut().for_each(|ratio| *ratio /= first);
        ratios
    };
    let (plain, injected) = (smoothed(&x, &w), smoothed(&by(&x, false), &by(&w, true)));
    compare::close(&injected, &plain, tolerance::FLOAT_SUM).expect("no trace of the factors");
}

#[test]
fn no_row_of_the_producer_grows_beyond_its_tensor() {
    let mut rng = Rng::new(13);
    let (rows, columns) = (20, 9);
    let mut w = rng.outliers(rows, columns, 1.0);
    w[3 * columns..4 * columns].fill(0.0);
    let before = rng.floats(rows, 1.0).into_iter().map(|s| s.abs() + 1e-4);
    let before: Vec<f32> = before.collect();
    let mut scales = before.clone();
    bound_rows(&mut scales, &w);
    let absmax = |w: &[f32]| w.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    let largest = absmax(&w);
    let mut divided = w.clone();
    divide_rows(&mut divided, &scales);
    assert!(
        f64::from(absmax(&divided)) <= f64::from(largest) * (1.0 + 2.0 * f64::from(f32::EPSILON))
    );
    // And no scale is changed without need.
    let mut raised = 0;
    for (row, (before, after)) in before.iter().zip(&scales).enumerate() {
        let most = absmax(&w[row * columns..][..columns]) / before;
        assert!(after >= before);
        assert_eq!(after > before, most > largest, "row {row}");
        raised += usize::from(after > before);
    }
    assert!(raised > 0 && raised < rows, "{raised}");
    let mut ones = vec![1.0; 2];
    bound_rows(&mut ones, &[0.0; 4]);
    assert_eq!(ones, [1.0; 2]);
}

#[test]
fn the_query_heads_of_a_kv_head_share_its_scales() {
    let folder = model::goldens()
        .into_iter()
        .find(|folder| folder.ends_with("llama-gqa-rope-llama3"));
    let model = pollster::block_on(model::open(&folder.expect("a golden")));
    let config = &model.config;
    let group = &config.layer_groups(0)[1];
    let producer = Producer::of(config, group);
    let (dim, kv) = (
        config.head_dim as usize,
        config.num_key_value_heads as usize,
    );
    let shared = config.num_attention_heads as usize / kv;
    assert!(shared > 1 && producer.channels == kv * dim);
    let values: Vec<f32> = (0..group.in_features)
        .map(|j| (j * 7 % 31) as f32)
        .collect();
    let largest = producer.reduce_max(&values);
    let expanded = producer.expand(&largest);
    for (j, value) in expanded.iter().enumerate() {
        let (head, channel) = (j / dim / shared, j % dim);
        let of_head = (0..shared).map(|query| values[(head * shared + query) * dim + channel]);
        assert_eq!(*value, of_head.fold(0.0, f32::max));
        assert_eq!(*value, largest[head * dim + channel]);
    }
}
