//! Cases of the quantize kernels.

use crate::case::{Case, Check, FlatRow};
use crate::rng::Rng;
use crate::tolerance::FLOAT_SUM;
use plateau_shaders::pack;
use plateau_shaders::quantize::{
    flatten_quantize, gram, gram_cross, gram_f32, gram_i8, quantize_dynamic,
};

pub fn cases() -> Vec<Case> {
    [
        dynamic(),
        flatten(),
        gram_float(),
        gram_int(),
        gram_between(),
    ]
    .concat()
}

fn dynamic() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, rows: u32, features: u32, q_max: u32, x: &[f32]| {
        let params = quantize_dynamic::Params::new(rows, features, q_max);
        let words = rows as usize * pack::i8_row_words(features as usize);
        cases.push(
            Case::new(
                &quantize_dynamic::KERNEL,
                name,
                params,
                quantize_dynamic::grid(&params),
            )
            .input(x)
            .output(&vec![u32::MAX; words], Check::Exact)
            .output(&vec![f32::NAN; rows as usize], Check::Exact),
        );
    };
    for (rows, features) in [
        (1, 1),
        (2, 31),
        (3, 32),
        (1, 63),
        (65, 64),
        (2, 257),
        (1, 1025),
        (3, 4099),
    ] {
        for q_max in [7, 127] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
            let x = rng.outliers(rows as usize, features as usize, 3.0);
            push(
                format!("rows={rows} features={features} q_max={q_max} outliers"),
                rows,
                features,
                q_max,
                &x,
            );
        }
    }
    // Whole and half steps: each lies on a tie, or next to one, of the division by absmax.
    for q_max in [7, 127] {
        let mut rng = Rng::new(u64::from(q_max));
        let mut x = Vec::new();
        for _ in 0..64 {
            let absmax = 1.0 + rng.unit().abs();
            x.extend((0..67).map(|_| {
                absmax * (rng.below(4 * q_max + 1) as f32 - 2.0 * q_max as f32) / (2 * q_max) as f32
            }));
            x.push(-absmax);
        }
        push(
            format!("rows=64 features=68 q_max={q_max} ties"),
            64,
            68,
            q_max,
            &x,
        );
    }
    // Rows of zeros, around the smallest absmax, huge ones, and one value that stands alone.
    let smallest = 1.0 / (1u128 << 100) as f32;
    let absmaxes = [
        0.0,
        1e-45,
        smallest.next_down(),
        smallest,
        smallest.next_up(),
        1e-20,
        1.0,
        0.1,
        1e30,
        f32::MAX,
    ];
    for q_max in [7, 127] {
        let mut rng = Rng::new(11);
        let x: Vec<f32> = absmaxes
            .iter()
            .flat_map(|&absmax| {
                let mut row = rng.floats(33, 1.0);
                row.iter_mut().for_each(|v| *v *= absmax);
                row[17] = -absmax;
                row
            })
            .collect();
        push(
            format!("rows=10 features=33 q_max={q_max} extremes"),
            absmaxes.len() as u32,
            33,
            q_max,
            &x,
        );
    }
    cases
}

/// A flatten map for `x` [rows, features]. The largest values of channels with many parts saturate; some channels are repeated,
/// whole or by their parts; there are extra channels that are always zero.
pub(super) fn flat_row(x: &[f32], features: u32, threshold: f32, q_max: u32) -> FlatRow {
    const MAX_PARTS: u32 = 255;
    const ZERO: u32 = 0xff00_0000;
    let mut absmax = vec![0f32; features as usize];
    for row in x.chunks_exact(features as usize) {
        absmax
            .iter_mut()
            .zip(row)
            .for_each(|(m, v)| *m = m.max(v.abs()));
    }
    let parts = |absmax: f32| ((0.9 * absmax / threshold).ceil() as u32).clamp(1, MAX_PARTS);
    let mut map: Vec<u32> = absmax.into_iter().map(parts).collect();
    for source in 0..features {
        let num_parts = map[source as usize];
        if source % 5 == 2 {
            map.push(flatten_quantize::extra(source, 0));
        }
        for part in 1..num_parts {
            let times = if source % 3 == 1 { 2 } else { 1 };
            map.extend(vec![flatten_quantize::extra(source, part); times]);
        }
        if source % 16 == 15 {
            map.push(ZERO);
        }
    }
    FlatRow {
        features,
        q_max,
        map,
    }
}

fn flatten() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [(1, 1), (2, 31), (3, 32), (65, 63), (2, 257), (1, 1025)] {
        for q_max in [7, 127] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
            let threshold = 2.0;
            let mut x = rng.outliers(rows as usize, features as usize, threshold);
            // Ties: whole and half steps of the bulk channels.
            for v in x.iter_mut().step_by(5) {
                *v = (*v / threshold * 2.0 * q_max as f32).round()
                    * (threshold / (2 * q_max) as f32);
            }
            x[0] = 1e9; // saturates
            let map = flat_row(&x, features, threshold, q_max).map;
            let flat_features = map.len() as u32;
            let params = flatten_quantize::Params {
                rows,
                features,
                flat_features,
                q_max,
                inv_scale: q_max as f32 / threshold,
            };
            let words = rows as usize * pack::i8_row_words(map.len());
            let name = format!(
                "rows={rows} features={features} flat_features={flat_features} q_max={q_max}"
            );
            cases.push(
                Case::new(
                    &flatten_quantize::KERNEL,
                    name,
                    params,
                    flatten_quantize::grid(&params),
                )
                .input(&x)
                .input(&map)
                .output(&vec![u32::MAX; words], Check::Exact),
            );
        }
    }
    cases
}

fn gram_float() -> Vec<Case> {
    let shapes = [(1, 1), (3, 5), (16, 64), (17, 65), (33, 63), (100, 130)];
    let case = |(rows, features): (u32, u32)| {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = gram::Params::square(rows, features);
        let x = rng.outliers(rows as usize, features as usize, 2.0);
        let before = rng.floats((features * features) as usize, 1.0);
        Case::new(
            &gram_f32::KERNEL,
            format!("rows={rows} features={features} outliers"),
            params,
            gram::grid(&params),
        )
        .input(&x)
        .output(&before, Check::Close(FLOAT_SUM))
        .ops(u64::from(rows * features * features))
    };
    shapes.map(case).to_vec()
}

fn gram_int() -> Vec<Case> {
    let shapes = [(1, 4), (3, 8), (16, 64), (17, 96), (33, 128), (100, 160)];
    let case = |(rows, features): (u32, u32), extremes: bool| {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = gram::Params::square(rows, features);
        let values: Vec<i8> = (0..rows * features)
            .map(|_| {
                if extremes {
                    [-127, 127][rng.below(2) as usize]
                } else {
                    (rng.below(255) as i32 - 127) as i8
                }
            })
            .collect();
        let x: Vec<u32> = bytemuck::pod_collect_to_vec(&values);
        let before: Vec<i32> = (0..features * features)
            .map(|i| i as i32 * 1009 - 7)
            .collect();
        let inputs = if extremes { "extremes" } else { "any" };
        Case::new(
            &gram_i8::KERNEL,
            format!("rows={rows} features={features} {inputs}"),
            params,
            gram::grid(&params),
        )
        .input(&x)
        .output(&before, Check::Exact)
        .ops(u64::from(rows * features * features))
    };
    let any = shapes.map(|shape| case(shape, false));
    let extremes = shapes.map(|shape| case(shape, true));
    [any, extremes].concat()
}

fn gram_between() -> Vec<Case> {
    let shapes = [
        (1, 4, 1),
        (3, 8, 5),
        (17, 96, 33),
        (16, 64, 130),
        (100, 160, 64),
    ];
    let case = |(rows, features, columns): (u32, u32, u32)| {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = gram::Params {
            rows,
            features,
            columns,
        };
        let integers: Vec<i8> = (0..rows * features)
            .map(|_| (rng.below(255) as i32 - 127) as i8)
            .collect();
        let x = rng.outliers(rows as usize, columns as usize, 2.0);
        let before = rng.floats((features * columns) as usize, 1.0);
        Case::new(
            &gram_cross::KERNEL,
            format!("rows={rows} features={features} columns={columns} outliers"),
            params,
            gram::grid(&params),
        )
        .input(&bytemuck::pod_collect_to_vec::<i8, u32>(&integers))
        .input(&x)
        .output(&before, Check::Close(FLOAT_SUM))
        .ops(u64::from(rows * features * columns))
    };
    shapes.map(case).to_vec()
}
