//! INT8 linear, few rows. Shapes and formula: gemv_i8.wgsl.

use crate::kernel::{Call, Kernel, div_ceil};
use crate::linear::integer;
pub use crate::linear::integer::Params;

pub const KERNEL: Kernel = Kernel {
    name: "gemv_i8",
    source: &[
        include_str!("gemv_i8.wgsl"),
        include_str!("gemv_weights_i8.wgsl"),
        include_str!("gemv_int.wgsl"),
        include_str!("dot16.wgsl"),
        include_str!("epilogue_int.wgsl"),
    ],
    bindings: integer::BINDINGS,
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

const OUTPUTS: u32 = 8;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.out_features, OUTPUTS), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    integer::run(call, integer::Weights::Int8);
}
