//! Layer norm to flat integers. Shapes and formula: layer_norm_flat.wgsl.

use super::layer_norm;
pub use super::rms_norm_flat::{Params, grid};
use crate::kernel::{Access, Call, Kernel};
use crate::quantize::flatten_quantize;

pub const KERNEL: Kernel = Kernel {
    name: "layer_norm_flat",
    source: &[
        include_str!("layer_norm_flat.wgsl"),
        include_str!("moments.wgsl"),
        include_str!("workgroup_sum.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.write(4),
    );
}

/// The definition of `layer_norm_flat`: `layer_norm`, then `flatten_quantize`.
pub fn reference(params: &Params, x: &[f32], affine: &[f32], map: &[u32], x_q: &mut [u32]) {
    let norm = layer_norm::Params {
        rows: params.rows,
        hidden: params.features,
        eps: params.eps,
    };
    let mut y = vec![0.0; (params.rows * params.features) as usize];
    layer_norm::reference(&norm, x, affine, &mut y);
    flatten_quantize::reference(&params.quantize(), &y, map, x_q);
}
