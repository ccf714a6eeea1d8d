//! Smoothing keeps products.

use crate::oracle;
use plateau::quantize::smooth::{
    Heads, divide_rows, multiply_columns, smoothing_scales, widen_column_absmax,
};
use plateau_tests::{Rng, compare, tolerance};

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
fn the_query_heads_of_a_kv_head_share_its_scales() {
    let heads = Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 3,
    };
    let absmax: Vec<f32> = (0..12).map(|channel| (channel * 7 % 12) as f32).collect();
    // Heads 0 and 1 have [0 7 2] and [9 4 11], heads 2 and 3 [6 1 8] and [3 10 5].
    let of_kv = heads.absmax_of_kv(&absmax);
    assert_eq!(of_kv, [9.0, 7.0, 11.0, 6.0, 10.0, 8.0]);
    assert_eq!(
        heads.for_query_heads(&of_kv),
        [
            9.0, 7.0, 11.0, 9.0, 7.0, 11.0, 6.0, 10.0, 8.0, 6.0, 10.0, 8.0
        ]
    );
}
