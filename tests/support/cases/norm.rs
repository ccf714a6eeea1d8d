//! Cases of the norm kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_TRANSCENDENTAL;
use plateau_shaders::norm::{head_norm, layer_norm, rms_norm};

pub fn cases() -> Vec<Case> {
    [rows(), layer_norms(), heads()].concat()
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
