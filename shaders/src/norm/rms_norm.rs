//! Root-mean-square norm of a row. Shapes and formula: rms_norm.wgsl.

use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "rms_norm",
    source: &[
        include_str!("rms_norm.wgsl"),
        include_str!("inverse_rms.wgsl"),
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

/// The definition of `rms_norm`; see the header of rms_norm.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let hidden = params.hidden as usize;
    for row in 0..params.rows as usize {
        let y = &mut y[row * hidden..][..hidden];
        y.copy_from_slice(&x[row * hidden..][..hidden]);
        super::normalize(y, weight, params.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_divided_by_its_root_mean_square() {
        let params = Params {
            rows: 2,
            hidden: 2,
            eps: 0.5,
        };
        let mut y = [0.0; 4];
        reference(&params, &[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], &mut y);
        let inv = 1.0 / 13f64.sqrt();
        assert_eq!(y, [(3.0 * inv) as f32, (8.0 * inv) as f32, 0.0, 0.0]);
    }
}
