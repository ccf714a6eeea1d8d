//! Cases of the norm kernels.

use super::quantize::flat_row;
use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_TRANSCENDENTAL;
use plateau_shaders::norm::{head_norm, layer_norm, layer_norm_flat, rms_norm, rms_norm_flat};
use plateau_shaders::{Kernel, pack};
use std::sync::Arc;

pub fn cases() -> Vec<Case> {
    [rows(), flat(), flat_whole_steps(), layer_norms(), heads()].concat()
}

fn rows() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, hidden) in [(1, 1), (2, 36), (1, 255), (3, 256), (65, 257), (2, 4099)] {
        let mut rng = Rng::new(u64::from(hidden) * 1000 + u64::from(rows));
        let params = rms_norm::Params {
            rows,
            hidden,
            eps: 1e-5,
        };
        let mut x = rng.outliers(rows as usize, hidden as usize, 2.0);
        if rows > 1 {
            // A row of zeros, and one so small that eps decides.
            x[..hidden as usize].fill(0.0);
            x[hidden as usize..2 * hidden as usize]
                .iter_mut()
                .for_each(|v| *v *= 1e-4);
        }
        cases.push(
            Case::new(
                &rms_norm::KERNEL,
                format!("rows={rows} hidden={hidden}"),
                params,
                rms_norm::grid(&params),
            )
            .input(&x)
            .input(&rng.floats(hidden as usize, 1.5))
            .output(
                &vec![0f32; (rows * hidden) as usize],
                Check::Close(FLOAT_TRANSCENDENTAL),
            ),
        );
    }
    cases
}

fn layer_norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, hidden) in [(1, 1), (2, 36), (1, 255), (3, 256), (65, 257), (3, 4099)] {
        let mut rng = Rng::new(u64::from(hidden) * 1000 + u64::from(rows) + 1);
        let params = layer_norm::Params {
            rows,
            hidden,
            eps: 1e-5,
        };
        let row = hidden as usize;
        let mut x = rng.outliers(rows as usize, row, 2.0);
        if rows > 1 {
            // A row of zeros, and one so small that eps decides.
            x[..row].fill(0.0);
            x[row..2 * row].iter_mut().for_each(|v| *v *= 1e-4);
        }
        if rows > 2 {
            // A mean that is larger than the deviation.
            x[2 * row..3 * row]
                .iter_mut()
                .for_each(|v| *v = 5.0 + *v * 0.01);
        }
        cases.push(
            Case::new(
                &layer_norm::KERNEL,
                format!("rows={rows} hidden={hidden}"),
                params,
                layer_norm::grid(&params),
            )
            .input(&x)
            .input(&rng.floats(2 * row, 1.5))
            .output(
                &vec![0f32; rows as usize * row],
                Check::Close(FLOAT_TRANSCENDENTAL),
            ),
        );
    }
    cases
}

/// How the normed values of a case become integers.
struct Integers {
    threshold: f32,
    q_max: u32,
    /// Whether the integers are compared for equality.
    exact: bool,
}

/// A case of `kernel`, whose norm of x by `weights` is y [rows, features].
fn flat_case(
    kernel: &'static Kernel,
    name: &str,
    [x, weights, y]: [&[f32]; 3],
    features: u32,
    eps: f32,
    integers: Integers,
) -> Case {
    let Integers {
        threshold,
        q_max,
        exact,
    } = integers;
    let rows = y.len() as u32 / features;
    let flat = flat_row(y, features, threshold, q_max);
    let flat_features = flat.map.len() as u32;
    let params = rms_norm_flat::Params {
        rows,
        features,
        eps,
        flat_features,
        q_max,
        inv_scale: q_max as f32 / threshold,
    };
    let words = rows as usize * pack::i8_row_words(flat.map.len());
    let case = Case::new(
        kernel,
        format!(
            "rows={rows} features={features} flat_features={flat_features} q_max={q_max}{name}"
        ),
        params,
        rms_norm_flat::grid(&params),
    );
    let case = case.input(x).input(weights).input(&flat.map);
    let check = match exact {
        true => Check::Exact,
        false => Check::FlatWithinStep(Arc::new(flat)),
    };
    case.output(&vec![u32::MAX; words], check)
}

fn rms_flat_case(name: &str, x: &[f32], weight: &[f32], eps: f32, integers: Integers) -> Case {
    let features = weight.len() as u32;
    let norm = rms_norm::Params {
        rows: x.len() as u32 / features,
        hidden: features,
        eps,
    };
    let mut y = vec![0.0; x.len()];
    rms_norm::reference(&norm, x, weight, &mut y);
    let kernel = &rms_norm_flat::KERNEL;
    flat_case(kernel, name, [x, weight, &y], features, eps, integers)
}

fn layer_flat_case(name: &str, x: &[f32], affine: &[f32], eps: f32, integers: Integers) -> Case {
    let features = affine.len() as u32 / 2;
    let norm = layer_norm::Params {
        rows: x.len() as u32 / features,
        hidden: features,
        eps,
    };
    let mut y = vec![0.0; x.len()];
    layer_norm::reference(&norm, x, affine, &mut y);
    let kernel = &layer_norm_flat::KERNEL;
    flat_case(kernel, name, [x, affine, &y], features, eps, integers)
}

fn flat() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [
        (1u32, 1u32),
        (2, 36),
        (1, 255),
        (3, 256),
        (65, 257),
        (2, 4099),
    ] {
        // The smaller threshold gives outliers over a hundred parts.
        for (q_max, threshold) in [(7, 0.05), (127, 0.5)] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
            let mut x = rng.outliers(rows as usize, features as usize, 2.0);
            if rows > 1 {
                x[..features as usize].fill(0.0);
            }
            let integers = || Integers {
                threshold,
                q_max,
                exact: false,
            };
            let weight = rng.floats(features as usize, 1.5);
            cases.push(rms_flat_case("", &x, &weight, 1e-5, integers()));
            let affine = rng.floats(2 * features as usize, 1.5);
            cases.push(layer_flat_case("", &x, &affine, 1e-5, integers()));
        }
    }
    cases
}

/// Each normed value is a whole number of steps, half a step from where rounding turns: no device may differ.
fn flat_whole_steps() -> Vec<Case> {
    /// Off by 1e-5 of itself, which `FLOAT_TRANSCENDENTAL` allows a norm, such a value rounds to itself.
    const MAX_STEPS: i32 = 1500;
    const STEP: f32 = 1.0 / 16.0;
    let mut cases = Vec::new();
    for (rows, features) in [(1u32, 1u32), (3, 31), (2, 256), (4, 1025)] {
        for q_max in [7u32, 127] {
            let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(q_max));
            let integers = || Integers {
                threshold: q_max as f32 * STEP,
                q_max,
                exact: true,
            };
            let magnitude = |row: u32| (1u32 << (2 * row)) as f32;
            let weight: Vec<f32> = rng
                .integers(features as usize, MAX_STEPS)
                .iter()
                .enumerate()
                .map(|(i, &steps)| STEP * (if i % 4 == 0 { steps } else { steps % 10 }) as f32)
                .collect();
            // The root mean square of a row is the magnitude of its elements.
            let x: Vec<f32> = (0..rows * features)
                .map(|i| match rng.below(2) {
                    0 => magnitude(i / features),
                    _ => -magnitude(i / features),
                })
                .collect();
            cases.push(rms_flat_case(" whole steps", &x, &weight, 0.0, integers()));

            // As many elements above the mean as below it, each one deviation away; with one element there is no deviation, and
            // the bias is left.
            let (features, eps) = match features {
                1 => (1, 1.0),
                odd_or_even => (odd_or_even / 2 * 2, 0.0),
            };
            let x: Vec<f32> = (0..rows * features)
                .map(|i| {
                    let (row, i) = (i / features, i % features);
                    let away = match (features, (i + row) % 2) {
                        (1, _) => 0.0,
                        (_, 0) => 1.0,
                        (_, _) => -1.0,
                    };
                    3.0 + away * magnitude(row)
                })
                .collect();
            let bias = rng.integers(features as usize, 40);
            let bias = bias.iter().map(|&steps| STEP * steps as f32);
            let affine: Vec<f32> = weight[..features as usize]
                .iter()
                .copied()
                .chain(bias)
                .collect();
            cases.push(layer_flat_case(
                " whole steps",
                &x,
                &affine,
                eps,
                integers(),
            ));
        }
    }
    cases
}

fn heads() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, heads, kv_heads, head_dim) in [
        (1, 1, 1, 8),
        (3, 4, 2, 20),
        (2, 3, 3, 64),
        (65, 2, 1, 128),
        (1, 2, 1, 256),
    ] {
        let mut rng = Rng::new(u64::from(head_dim) * 1000 + u64::from(rows));
        let stride = (heads + 2 * kv_heads) * head_dim;
        let params = head_norm::Params {
            rows,
            heads,
            kv_heads,
            head_dim,
            stride,
            eps: 1e-6,
        };
        let name = format!("rows={rows} heads={heads}/{kv_heads} head_dim={head_dim}");
        cases.push(
            Case::new(&head_norm::KERNEL, name, params, head_norm::grid(&params))
                .input(&rng.floats(2 * head_dim as usize, 1.5))
                .output(
                    &rng.outliers(rows as usize, stride as usize, 2.0),
                    Check::Close(FLOAT_TRANSCENDENTAL),
                ),
        );
    }
    cases
}
