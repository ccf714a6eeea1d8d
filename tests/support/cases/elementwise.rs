//! Cases of the elementwise kernels.

use super::quantize::flat_row;
use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::{FLOAT_FEW_ULP, FLOAT_TRANSCENDENTAL};
use half::f16;
use plateau_shaders::elementwise::{
    add_positions, embedding_f16, embedding_f32, embedding_i8, gather_rows, relu, relu_flat,
    silu_mul, silu_mul_flat, stored_row,
};
use plateau_shaders::{pack, padded};
use std::sync::Arc;

pub fn cases() -> Vec<Case> {
    [
        embedding(),
        positions(),
        gather(),
        stored(),
        silu(),
        silu_flat(),
        silu_flat_whole_steps(),
        positive_part(),
        positive_part_flat(),
    ]
    .concat()
}

/// What no kernel writes: an output that keeps it was left alone.
const UNTOUCHED: f32 = 7.25;

/// Whole tables and parts of one, with tokens before, in, after the part, and beyond the vocabulary. All exact: a table's
/// element is copied, widened, or multiplied once.
fn embedding() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, hidden, vocab, first_row, num_rows) in [
        (1, 1, 5, 0, 5),
        (3, 36, 105, 0, 105),
        (65, 257, 105, 31, 63),
        (2, 256, 7, 6, 1),
        (7, 64, 64, 0, 33),
    ] {
        let name = format!("rows={rows} hidden={hidden} vocab={vocab} part={first_row}+{num_rows}");
        let params = embedding_f32::Params {
            rows,
            hidden,
            vocab,
            first_row,
            num_rows,
        };
        let grid = embedding_f32::grid(&params);
        let mut rng = Rng::new(u64::from(hidden) * 1000 + u64::from(rows));
        let mut tokens: Vec<u32> = (0..rows).map(|_| rng.below(vocab + 2)).collect();
        tokens[0] = first_row + num_rows - 1;
        if let Some(last) = tokens.get_mut(2) {
            *last = u32::MAX;
        }
        let elements = (num_rows * padded(hidden)) as usize;
        let before = vec![UNTOUCHED; (rows * hidden) as usize];
        let table = rng.floats(elements, 3.0);
        cases.push(
            Case::new(&embedding_f32::KERNEL, name.clone(), params, grid)
                .input(&tokens)
                .input(&table)
                .output(&before, Check::Exact),
        );
        // Away from subnormal halves, which a device may flush.
        let halves: Vec<f16> = table
            .iter()
            .map(|&v| f16::from_f32(v + v.signum() * 0.01))
            .collect();
        cases.push(
            Case::new(&embedding_f16::KERNEL, name.clone(), params, grid)
                .input(&tokens)
                .input(&halves)
                .output(&before, Check::Exact),
        );
        let mut integers: Vec<i8> = rng
            .integers(elements, 127)
            .iter()
            .map(|&v| v as i8)
            .collect();
        integers[0] = -128;
        cases.push(
            Case::new(&embedding_i8::KERNEL, name, params, grid)
                .input(&tokens)
                .input(&integers)
                .input(&rng.floats(num_rows as usize, 0.1))
                .output(&before, Check::Exact),
        );
    }
    cases
}

/// Whole tables and parts of one, with positions before, in and after the part, and in any order.
fn positions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, hidden, offset, positions, first_row, num_rows) in [
        (1, 1, 2, 5, 0, 7),
        (3, 36, 2, 105, 0, 107),
        (65, 257, 2, 105, 31, 63),
        (9, 256, 0, 7, 6, 1),
    ] {
        let params = add_positions::Params {
            rows,
            hidden,
            offset,
            first_row,
            num_rows,
        };
        let mut rng = Rng::new(u64::from(hidden) * 1000 + u64::from(rows));
        let mut row_info: Vec<[u32; 2]> = (0..rows)
            .map(|_| [rng.below(3), rng.below(positions)])
            .collect();
        // The last row of the part.
        row_info[0][1] = first_row + num_rows - 1 - offset;
        let name = format!(
            "rows={rows} hidden={hidden} offset={offset} part={first_row}+{num_rows} of {}",
            positions + offset
        );
        cases.push(
            Case::new(
                &add_positions::KERNEL,
                name,
                params,
                add_positions::grid(&params),
            )
            .input(&row_info)
            .input(&rng.floats((num_rows * padded(hidden)) as usize, 3.0))
            .output(
                &rng.outliers(rows as usize, hidden as usize, 2.0),
                Check::Close(FLOAT_FEW_ULP),
            ),
        );
    }
    cases
}

fn gather() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, rows, features) in [(1, 1, 1), (3, 2, 36), (65, 70, 257), (2, 300, 256)] {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(n));
        let params = gather_rows::Params { n, features };
        let mut index: Vec<u32> = (0..n).map(|_| rng.below(rows)).collect();
        index[0] = rows - 1;
        // Any bits, NaN and subnormals too: the kernel copies.
        let x: Vec<u32> = (0..rows * features).map(|_| rng.next_u32()).collect();
        cases.push(
            Case::new(
                &gather_rows::KERNEL,
                format!("n={n} rows={rows} features={features}"),
                params,
                gather_rows::grid(&params),
            )
            .input(&index)
            .input(&x)
            .output(&vec![0u32; (n * features) as usize], Check::Exact),
        );
    }
    cases
}

fn stored() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [(1u32, 1u32), (5, 255), (3, 256), (9, 257)] {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = stored_row::Params {
            rows,
            features,
            token: 1,
        };
        // The token at the first position, elsewhere, and other tokens at the first position.
        let tokens: Vec<u32> = (0..rows).map(|row| row % 2).collect();
        let row_info: Vec<[u32; 2]> = (0..rows).map(|row| [row, row / 2 % 2]).collect();
        let x: Vec<u32> = (0..rows * features).map(|_| rng.next_u32()).collect();
        let stored: Vec<u32> = (0..features).map(|_| rng.next_u32()).collect();
        cases.push(
            Case::new(
                &stored_row::KERNEL,
                format!("rows={rows} features={features}"),
                params,
                stored_row::grid(&params),
            )
            .input(&tokens)
            .input(&row_info)
            .input(&stored)
            .output(&x, Check::Exact),
        );
    }
    cases
}

fn silu() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [(1, 1), (1, 255), (3, 256), (2, 257), (65, 64)] {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = silu_mul::Params { rows, features };
        let x = rng.outliers(rows as usize, 2 * features as usize, 2.0);
        cases.push(
            Case::new(
                &silu_mul::KERNEL,
                format!("rows={rows} features={features}"),
                params,
                silu_mul::grid(&params),
            )
            .input(&x)
            .output(
                &vec![0f32; (rows * features) as usize],
                Check::Close(FLOAT_TRANSCENDENTAL),
            ),
        );
    }
    cases
}

/// Exact: an element is kept or becomes 0.
fn positive_part() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [(1, 1), (1, 255), (3, 256), (2, 257), (65, 64)] {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = relu::Params { rows, features };
        let mut x = rng.outliers(rows as usize, features as usize, 2.0);
        let extremes = [-0.0, 0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE];
        x.iter_mut()
            .skip(1)
            .zip(extremes)
            .for_each(|(x, extreme)| *x = extreme);
        cases.push(
            Case::new(
                &relu::KERNEL,
                format!("rows={rows} features={features}"),
                params,
                relu::grid(&params),
            )
            .output(&x, Check::Exact),
        );
    }
    cases
}

/// Exact: so are the positive part and its steps.
fn positive_part_flat() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [
        (1u32, 1u32),
        (2, 31),
        (1, 255),
        (3, 256),
        (2, 257),
        (65, 64),
    ] {
        // The smaller threshold gives outliers over a hundred parts.
        for (q_max, threshold) in [(7, 0.05), (127, 2.0)] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
            let mut x = rng.outliers(rows as usize, features as usize, 2.0);
            // Ties: whole and half steps.
            for v in x.iter_mut().step_by(5) {
                let step = threshold / q_max as f32;
                *v = (*v / step * 2.0).round() / 2.0 * step;
            }
            let extremes = [-0.0, 0.0, -1e30, f32::MIN_POSITIVE];
            x.iter_mut()
                .skip(1)
                .zip(extremes)
                .for_each(|(x, extreme)| *x = extreme);
            let mut y = x.clone();
            relu::reference(&relu::Params { rows, features }, &mut y);
            let map = flat_row(&y, features, threshold, q_max).map;
            let flat_features = map.len() as u32;
            let params = relu_flat::Params {
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
                Case::new(&relu_flat::KERNEL, name, params, relu_flat::grid(&params))
                    .input(&x)
                    .input(&map)
                    .output(&vec![u32::MAX; words], Check::Exact),
            );
        }
    }
    cases
}

/// A case of `silu_mul_flat` over x [rows, 2 * features]. `exact` says whether the integers are compared for equality.
fn silu_flat_case(
    name: &str,
    x: &[f32],
    features: u32,
    threshold: f32,
    q_max: u32,
    exact: bool,
) -> Case {
    let rows = x.len() as u32 / (2 * features);
    let mut y = vec![0.0; x.len() / 2];
    silu_mul::reference(&silu_mul::Params { rows, features }, x, &mut y);
    let flat = flat_row(&y, features, threshold, q_max);
    let flat_features = flat.map.len() as u32;
    let params = silu_mul_flat::Params {
        rows,
        features,
        flat_features,
        q_max,
        inv_scale: q_max as f32 / threshold,
    };
    let words = rows as usize * pack::i8_row_words(flat.map.len());
    let case = Case::new(
        &silu_mul_flat::KERNEL,
        format!(
            "rows={rows} features={features} flat_features={flat_features} q_max={q_max}{name}"
        ),
        params,
        silu_mul_flat::grid(&params),
    );
    let case = case.input(x).input(&flat.map);
    let check = match exact {
        true => Check::Exact,
        false => Check::FlatWithinStep(Arc::new(flat)),
    };
    case.output(&vec![u32::MAX; words], check)
}

fn silu_flat() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [
        (1u32, 1u32),
        (2, 31),
        (1, 255),
        (3, 256),
        (2, 257),
        (65, 64),
    ] {
        for q_max in [7, 127] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
            let x = rng.outliers(rows as usize, 2 * features as usize, 2.0);
            // A product of two outliers has more than 255 parts of this size: it saturates.
            cases.push(silu_flat_case("", &x, features, 4.0, q_max, false));
        }
    }
    cases
}

/// silu(64) is 64 and silu(0) is 0, so each product is a whole number of steps, half a step from where rounding turns: no
/// device may differ.
fn silu_flat_whole_steps() -> Vec<Case> {
    const GATE: f32 = 64.0;
    /// Off by 1e-5 of itself, which `FLOAT_TRANSCENDENTAL` allows a product, such a value rounds to itself.
    const MAX_STEPS: i32 = 1500;
    let mut cases = Vec::new();
    for (rows, features) in [(1u32, 1u32), (3, 31), (2, 256), (4, 513)] {
        for q_max in [7, 127] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(q_max));
            let step = 1.0 / 16.0;
            let mut x = Vec::new();
            for _ in 0..rows {
                x.extend((0..features).map(|_| if rng.below(8) == 0 { 0.0 } else { GATE }));
                let steps = rng.integers(features as usize, MAX_STEPS);
                x.extend(steps.iter().enumerate().map(|(i, &steps)| {
                    step / GATE * (if i % 4 == 0 { steps } else { steps % 10 }) as f32
                }));
            }
            let threshold = q_max as f32 * step;
            cases.push(silu_flat_case(
                " whole steps",
                &x,
                features,
                threshold,
                q_max,
                true,
            ));
        }
    }
    cases
}
