//! Flattening: products are kept exactly, values are bounded, maps have the format of the checkpoint.

use crate::oracle;
use plateau::checkpoint::{FLATTEN_PADDING, MAX_PARTS};
use plateau::quantize::flatten::{FlatMap, FlattenError, num_parts, usable_threshold};
use plateau_shaders::pack;
use plateau_shaders::quantize::flatten_quantize::{Params, reference};
use plateau_tests::{Rng, tolerance};

/// Multiples of 2^-6 of magnitude up to `scale`, with outlier channels: exact in every sum and product of a test.
fn dyadic(rng: &mut Rng, rows: usize, features: usize, scale: f32) -> Vec<f32> {
    let mut x = rng.outliers(rows, features, scale);
    x.iter_mut().for_each(|x| *x = (*x * 64.0).round() / 64.0);
    x
}

fn column_absmax(x: &[f32], features: usize) -> Vec<f32> {
    (0..features)
        .map(|j| {
            x.iter()
                .skip(j)
                .step_by(features)
                .fold(0.0, |m: f32, x| m.max(x.abs()))
        })
        .collect()
}

/// Widths that are a multiple of nothing, and of all.
const FEATURES: [usize; 5] = [1, 5, 37, 64, 131];

#[test]
fn flattening_keeps_the_product_exactly_and_bounds_every_value() {
    let mut rng = Rng::new(21);
    for features in FEATURES {
        for (x_threshold, w_threshold) in [(2.0, 0.5), (2.0, f32::INFINITY), (f32::INFINITY, 0.25)]
        {
            for tile in [0, 8, 64] {
                let x = dyadic(&mut rng, 6, features, 4.0);
                let w = dyadic(&mut rng, 5, features, 0.3);
                let [x_absmax, w_absmax] = [&x, &w].map(|m| column_absmax(m, features));
                let map = FlatMap::new(&x_absmax, x_threshold, &w_absmax, w_threshold, tile)
                    .expect("few parts");
                let flat = map.flat_features();
                let flat_x: Vec<f64> = x
                    .chunks(features)
                    .flat_map(|row| oracle::flat_activations(&map, row, x_threshold))
                    .collect();
                let flat_w: Vec<f32> = w
                    .chunks(features)
                    .flat_map(|row| map.flatten_weights(row))
                    .collect();
                assert_eq!(
                    oracle::product(&flat_x, &oracle::wide(&flat_w), flat),
                    oracle::product(&oracle::wide(&x), &oracle::wide(&w), features),
                );
                assert!(flat_x.iter().all(|x| x.abs() <= f64::from(x_threshold)));
                assert!(flat_w.iter().all(|w| w.abs() <= w_threshold));
                assert_eq!(
                    map.x_parts(),
                    num_parts(&x_absmax, x_threshold).expect("few")
                );
            }
        }
    }
}

#[test]
fn the_map_and_its_index_agree() {
    let mut rng = Rng::new(22);
    for features in FEATURES {
        for tile in [0, 4, 64] {
            let [x_absmax, w_absmax] = [(); 2].map(|()| {
                let values = rng.outliers(1, features, 1.0);
                values.into_iter().map(f32::abs).collect::<Vec<_>>()
            });
            let map = FlatMap::new(&x_absmax, 0.7, &w_absmax, 0.8, tile).expect("few parts");
            let mut named = vec![false; map.words().len()];
            let mut after = 0;
            for source in 0..features {
                let [first, count] = [map.index()[2 * source], map.index()[2 * source + 1]];
                let (n, m) = (map.x_parts()[source], map.w_parts()[source]);
                assert_eq!(count, n * m - 1);
                assert!(first >= after || count == 0, "channels ascend");
                let words = &map.words()[first as usize..][..count as usize];
                for (at, &word) in (1..).zip(words) {
                    assert_eq!(word, source as u32 | (at / m) << 24);
                }
                named[first as usize..][..count as usize].fill(true);
                if count > 0 {
                    assert_eq!(words[count as usize - 1] >> 24, n - 1, "the last part");
                    after = first + count;
                }
            }
            for (word, named) in map.words().iter().zip(&named) {
                assert_eq!(*named, *word != FLATTEN_PADDING);
            }
            // No word of four flat channels has sources of two tiles.
            if tile > 0 {
                let flat: Vec<Option<usize>> = (0..map.flat_features())
                    .map(|channel| match channel.checked_sub(features) {
                        None => Some(channel),
                        Some(extra) => Some(map.words()[extra])
                            .filter(|&word| word != FLATTEN_PADDING)
                            .map(|word| (word & 0xff_ffff) as usize),
                    })
                    .collect();
                for word in flat.chunks(4) {
                    let mut tiles: Vec<usize> = word.iter().flatten().map(|s| s / tile).collect();
                    tiles.dedup();
                    assert!(tiles.len() <= 1, "{word:?} at tile {tile}");
                }
            } else {
                assert!(named.iter().all(|named| *named), "no padding");
            }
        }
    }
}

#[test]
fn the_kernels_integers_on_a_map_are_within_half_a_step() {
    let mut rng = Rng::new(23);
    for (features, q_max) in [(37, 7), (37, 127), (64, 7), (1, 127)] {
        let rows = 9;
        let x = rng.outliers(rows, features, 4.0);
        let threshold = 3.0;
        // W is not split, so that the map is the kernel's as it stands.
        let map = FlatMap::new(
            &column_absmax(&x, features),
            threshold,
            &vec![1.0; features],
            f32::INFINITY,
            64,
        )
        .expect("few parts");
        let scale = threshold / q_max as f32;
        let params = Params {
            rows: rows as u32,
            features: features as u32,
            flat_features: map.flat_features() as u32,
            q_max,
            inv_scale: 1.0 / scale,
        };
        let bound: Vec<u32> = map.x_parts().iter().chain(map.words()).copied().collect();
        let words = pack::i8_row_words(map.flat_features());
        let mut packed = vec![0; rows * words];
        reference(&params, &x, &bound, &mut packed);
        for (row, packed) in x.chunks(features).zip(packed.chunks(words)) {
            let mut q = vec![0; map.flat_features()];
            pack::unpack_i8(packed, &mut q);
            // A channel's parts sum to it, within half a step.
            let mut sums = vec![0; features];
            for (channel, &q) in q.iter().enumerate() {
                let source = match channel.checked_sub(features) {
                    None => channel,
                    Some(extra) if map.words()[extra] == FLATTEN_PADDING => continue,
                    Some(extra) => (map.words()[extra] & 0xff_ffff) as usize,
                };
                sums[source] += i32::from(q);
            }
            for (sum, x) in sums.iter().zip(row) {
                let error = (f64::from(*sum) * f64::from(scale) - f64::from(*x)).abs();
                // x * inv_scale is rounded to f32, at up to some hundred steps.
                let allowed = f64::from(scale) * (0.5 + tolerance::FLOAT_SUM.relative);
                assert!(error <= allowed, "{error} of {scale}");
            }
        }
    }
}

#[test]
fn tensors_of_zeros_and_of_outliers_flatten() {
    let zeros = FlatMap::new(&[0.0; 3], 1.0, &[0.0; 3], 1.0, 64).expect("nothing to split");
    assert_eq!(
        (zeros.flat_features(), zeros.x_parts()),
        (3, &[1, 1, 1][..])
    );
    let all = FlatMap::new(&[10.0; 3], 2.5, &[1.0; 3], 1.0, 0).expect("4 parts each");
    assert_eq!((all.flat_features(), all.x_parts()), (12, &[4, 4, 4][..]));
    for (threshold, largest) in [(0.0, 0.0), (1e-44, 1e-44), (0.0, 3e38), (9.0, 1.0)] {
        let usable = usable_threshold(threshold, largest);
        let scale = usable / 127.0;
        assert!(scale.is_normal() && (1.0 / scale).is_finite(), "{usable}");
        assert!(num_parts(&[largest], usable).is_ok(), "{usable}");
    }
}

#[test]
fn what_cannot_be_flattened_is_an_error() {
    assert_eq!(
        num_parts(&[1.0], 0.0),
        Err(FlattenError::Threshold { found: 0.0 })
    );
    assert!(matches!(
        num_parts(&[1.0], f32::NAN),
        Err(FlattenError::Threshold { .. })
    ));
    assert!(matches!(
        num_parts(&[1.0, f32::INFINITY], 1.0),
        Err(FlattenError::NotFinite { channel: 1, .. })
    ));
    assert_eq!(num_parts(&[255.0], 1.0), Ok(vec![MAX_PARTS]));
    assert!(matches!(
        num_parts(&[255.01], 1.0),
        Err(FlattenError::TooManyParts { found: 256.0, .. })
    ));
}
