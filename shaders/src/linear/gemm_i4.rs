//! INT4 linear, many rows. Shapes and formula: gemm_i4.wgsl.

use crate::kernel::{Call, Kernel, div_ceil};
use crate::linear::integer;
pub use crate::linear::integer::Params;

pub const KERNEL: Kernel = Kernel {
    name: "gemm_i4",
    source: &[
        include_str!("gemm_i4.wgsl"),
        include_str!("gemm_weights_i4.wgsl"),
        include_str!("gemm_int.wgsl"),
        include_str!("unpack_i4.wgsl"),
        include_str!("dot16.wgsl"),
        include_str!("epilogue_int.wgsl"),
    ],
    bindings: integer::BINDINGS,
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

const TILE: u32 = 64;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [
        div_ceil(params.out_features, TILE),
        div_ceil(params.rows, TILE),
        1,
    ]
}

fn run(call: &mut Call<'_>) {
    integer::run(call, integer::Weights::Int4);
}
