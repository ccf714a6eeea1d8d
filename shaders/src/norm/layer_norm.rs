//! Layer norm of a row. Shapes and formula: layer_norm.wgsl.

use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "layer_norm",
    source: &[
        include_str!("layer_norm.wgsl"),
        include_str!("moments.wgsl"),
        include_str!("workgroup_sum.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub hidden: u32,
    pub eps: f32,
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `layer_norm`; see the header of layer_norm.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], affine: &[f32], y: &mut [f32]) {
    let hidden = params.hidden as usize;
    let (weight, bias) = affine[..2 * hidden].split_at(hidden);
    for row in 0..params.rows as usize {
        let (x, y) = (
            &x[row * hidden..][..hidden],
            &mut y[row * hidden..][..hidden],
        );
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / hidden as f64;
        let squares = x.iter().map(|&v| (f64::from(v) - mean).powi(2));
        let variance = squares.sum::<f64>() / hidden as f64;
        let inv = 1.0 / (variance + f64::from(params.eps)).sqrt();
        for i in 0..hidden {
            let normed = (f64::from(x[i]) - mean) * inv;
            y[i] = (normed * f64::from(weight[i]) + f64::from(bias[i])) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_mean_taken_away_and_is_divided_by_its_deviation() {
        let params = Params {
            rows: 2,
            hidden: 2,
            eps: 0.0,
        };
        let mut y = [0.0; 4];
        // Deviations 2 and 0.5.
        let x = [1.0, 5.0, -1.0, -2.0];
        reference(&params, &x, &[1.0, 2.0, 10.0, 20.0], &mut y);
        assert_eq!(y, [9.0, 22.0, 11.0, 18.0]);
        let params = Params {
            rows: 1,
            eps: 4.0,
            ..params
        };
        // No deviation at all: eps keeps it finite, the bias is what is left.
        reference(&params, &[3.0, 3.0], &[1.0, 2.0, 10.0, 20.0], &mut y);
        assert_eq!(y[..2], [10.0, 20.0]);
    }
}
