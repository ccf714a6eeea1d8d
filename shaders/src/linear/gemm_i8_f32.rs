//! INT8 linear, many rows, in f32. Shapes and formula: gemm_i8_f32.wgsl.

use crate::kernel::{Call, Kernel};
pub use crate::linear::gemm_i8::grid;
use crate::linear::integer;
pub use crate::linear::integer::Params;

pub const KERNEL: Kernel = Kernel {
    name: "gemm_i8_f32",
    source: &[
        include_str!("gemm_i8_f32.wgsl"),
        include_str!("gemm_weights_i8.wgsl"),
        include_str!("gemm_int_f32.wgsl"),
        include_str!("epilogue_int.wgsl"),
    ],
    bindings: integer::BINDINGS,
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    integer::run(call, integer::Weights::Int8);
}
