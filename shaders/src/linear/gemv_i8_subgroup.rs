//! INT8 linear, few rows, on adapters with subgroups. Shapes and formula: gemv_i8.wgsl.

use crate::kernel::{Call, Kernel};
use crate::linear::integer;
pub use crate::linear::integer::Params;

pub const KERNEL: Kernel = Kernel {
    name: "gemv_i8_subgroup",
    source: &[
        include_str!("gemv_i8_subgroup.wgsl"),
        include_str!("gemv_steps_i8.wgsl"),
        include_str!("subgroup_pairs.wgsl"),
        include_str!("gemv_int_subgroup.wgsl"),
        include_str!("dot16.wgsl"),
        include_str!("epilogue_int.wgsl"),
    ],
    bindings: integer::BINDINGS,
    params_bytes: size_of::<Params>(),
    subgroups: true,
    run,
};

fn run(call: &mut Call<'_>) {
    integer::run(call, integer::Weights::Int8);
}
