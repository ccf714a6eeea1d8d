//! A float linear of few rows with weights of f16. Shapes and formula: float_linear.wgsl.

use super::float_linear;
pub use super::float_linear::{Params, gemv_grid as grid};
use crate::kernel::{Access, Call, Kernel};
use half::f16;

pub const KERNEL: Kernel = Kernel {
    name: "gemv_f16",
    source: &[
        include_str!("float_linear.wgsl"),
        include_str!("gemv_steps_f16.wgsl"),
        include_str!("gemv.wgsl"),
        include_str!("gemv_f16.wgsl"),
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

/// The definition of `gemv_f16`; see the header of float_linear.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], w: &[f16], aux: &[f32], y: &mut [f32]) {
    float_linear::reference(params, x, w, aux, y, float_linear::widen_f16);
}
