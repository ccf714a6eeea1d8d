//! SwiGLU's product to flat integers. Shapes and formula: silu_mul_flat.wgsl.

use super::silu_mul;
use crate::kernel::{Access, Call, Kernel};
use crate::quantize::flatten_quantize;
pub use crate::quantize::flatten_quantize::{Params, grid};

pub const KERNEL: Kernel = Kernel {
    name: "silu_mul_flat",
    source: &[
        include_str!("silu_mul_flat.wgsl"),
        include_str!("silu_mul_of.wgsl"),
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

/// The definition of `silu_mul_flat`: `silu_mul`, then `flatten_quantize`.
pub fn reference(params: &Params, x: &[f32], map: &[u32], x_q: &mut [u32]) {
    let product = silu_mul::Params {
        rows: params.rows,
        features: params.features,
    };
    let mut y = vec![0.0; (params.rows * params.features) as usize];
    silu_mul::reference(&product, x, &mut y);
    flatten_quantize::reference(params, &y, map, x_q);
}
