//! INT4 linear, many rows, on adapters with f16 cooperative matrices. Shapes and formula: gemm_i4.wgsl.

use crate::kernel::{Call, Kernel};
use crate::linear::integer;
pub use crate::linear::integer::{Params, coop_grid as grid};

pub const KERNEL: Kernel = Kernel {
    name: "gemm_i4_coop16",
    source: &[
        include_str!("gemm_i4_coop16.wgsl"),
        include_str!("gemm_coop16.wgsl"),
        include_str!("gemm_coop16_weights_i4.wgsl"),
        include_str!("gemm_coop_parts.wgsl"),
        include_str!("gemm_coop_loads.wgsl"),
        include_str!("gemm_coop_weights_i4.wgsl"),
        include_str!("gemm_coop.wgsl"),
        include_str!("epilogue_int.wgsl"),
    ],
    bindings: integer::BINDINGS,
    params_bytes: size_of::<Params>(),
    subgroups: true,
    run,
};

fn run(call: &mut Call<'_>) {
    integer::run(call, integer::Weights::Int4);
}
