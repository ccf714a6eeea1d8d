//! What the float linears share: float_linear.wgsl.

use crate::kernel::div_ceil;
use crate::padded;
use bytemuck::{Pod, Zeroable};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub in_features: u32,
    /// Outputs that this dispatch computes: a linear may be split in row ranges of its weights.
    pub out_features: u32,
    /// Feature of y where the first of them goes.
    pub first_out: u32,
    /// Features of a row of y.
    pub out_stride: u32,
    /// 1 if aux is the bias, else 0.
    pub has_bias: u32,
    /// 1 to add to y, 0 to overwrite it.
    pub accumulate: u32,
}

const GEMM_TILE: u32 = 64;
const GEMV_OUTPUTS: u32 = 8;
/// Workgroups of a GEMV in x, so that no dimension passes the 65535 that every device has.
const GEMV_WIDTH: u32 = 32768;

/// Workgroups of a GEMM in x, y, z.
pub fn gemm_grid(params: &Params) -> [u32; 3] {
    [
        div_ceil(params.out_features, GEMM_TILE),
        div_ceil(params.rows, GEMM_TILE),
        1,
    ]
}

/// Workgroups of a GEMV in x, y, z.
pub fn gemv_grid(params: &Params) -> [u32; 3] {
    let groups = div_ceil(params.out_features, GEMV_OUTPUTS);
    [
        groups.min(GEMV_WIDTH),
        params.rows,
        div_ceil(groups, GEMV_WIDTH),
    ]
}

/// The definition of all float linears. `widen` turns a row of weights into f64.
pub(super) fn reference<T: Sync>(
    params: &Params,
    x: &[f32],
    w: &[T],
    aux: &[f32],
    y: &mut [f32],
    widen: fn(&[T], &mut [f64]),
) {
    /// Outputs per task of the thread pool.
    const TASK: usize = 16;
    let (rows, in_features) = (params.rows as usize, params.in_features as usize);
    let stride = padded(params.in_features) as usize;
    let x: Vec<f64> = x[..rows * in_features]
        .iter()
        .map(|&v| f64::from(v))
        .collect();
    let columns: Vec<f32> = w[..params.out_features as usize * stride]
        .par_chunks(stride)
        .with_min_len(TASK)
        .enumerate()
        .map_init(
            || vec![0f64; in_features],
            |weights, (o, w)| {
                widen(&w[..in_features], weights);
                let bias = if params.has_bias != 0 {
                    f64::from(aux[o])
                } else {
                    0.0
                };
                x.chunks_exact(in_features)
                    .map(|x| (dot(x, weights) + bias) as f32)
                    .collect::<Vec<f32>>()
            },
        )
        .flatten_iter()
        .collect();
    for (o, column) in columns.chunks_exact(rows).enumerate() {
        for (row, &value) in column.iter().enumerate() {
            let y = &mut y[row * params.out_stride as usize + params.first_out as usize + o];
            *y = if params.accumulate != 0 {
                *y + value
            } else {
                value
            };
        }
    }
}

pub(super) fn widen_f32(weights: &[f32], wide: &mut [f64]) {
    for (wide, &weight) in wide.iter_mut().zip(weights) {
        *wide = f64::from(weight);
    }
}

pub(super) fn widen_f16(weights: &[f16], wide: &mut [f64]) {
    weights.convert_to_f64_slice(wide);
}

/// The sum of products, in eight lanes so that a compiler can use vectors. The order does not matter: it is in f64.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    let mut sums = [0f64; LANES];
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    rest + sums.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_writes_its_own_columns_and_adds_bias_and_residual() {
        let params = Params {
            rows: 2,
            in_features: 3,
            out_features: 2,
            first_out: 1,
            out_stride: 4,
            has_bias: 1,
            accumulate: 1,
        };
        let x = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0];
        let mut w = vec![0f32; 2 * 32];
        w[..3].copy_from_slice(&[1.0, 10.0, 100.0]);
        w[32..35].copy_from_slice(&[2.0, 0.0, -1.0]);
        let halves: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let aux = [0.25, -0.5];
        let expected = [0.0, 1321.25, -0.5, 0.0, 1000.0, 1404.25, 993.5, 1000.0];
        let before = [0.0, 1000.0, 1.0, 0.0, 1000.0, 1000.0, 1000.0, 1000.0];
        let mut y = before;
        reference(&params, &x, &w, &aux, &mut y, widen_f32);
        assert_eq!(y, expected);
        let mut y = before;
        reference(&params, &x, &halves, &aux, &mut y, widen_f16);
        assert_eq!(y, expected);
    }

    #[test]
    fn a_gemv_of_a_large_vocabulary_stays_within_every_dimension() {
        let params = Params {
            rows: 3,
            in_features: 64,
            out_features: 600_001,
            first_out: 0,
            out_stride: 600_001,
            has_bias: 0,
            accumulate: 0,
        };
        assert_eq!(gemv_grid(&params), [32768, 3, 3]);
    }
}
