//! The positive part to flat integers. Shapes and formula: relu_flat.wgsl.

use super::relu;
use crate::kernel::{Access, Call, Kernel};
use crate::quantize::flatten_quantize;
pub use crate::quantize::flatten_quantize::{Params, grid};

pub const KERNEL: Kernel = Kernel {
    name: "relu_flat",
    source: &[
        include_str!("relu_flat.wgsl"),
        include_str!("relu_of.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `relu_flat`: `relu`, then `flatten_quantize`.
pub fn reference(params: &Params, x: &[f32], map: &[u32], x_q: &mut [u32]) {
    let positive = relu::Params {
        rows: params.rows,
        features: params.features,
    };
    let mut y = x[..(params.rows * params.features) as usize].to_vec();
    relu::reference(&positive, &mut y);
    flatten_quantize::reference(params, &y, map, x_q);
}
