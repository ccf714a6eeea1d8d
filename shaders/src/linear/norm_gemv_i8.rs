//! A norm, the flat integers of a static scale, and an INT8 linear of one row, on adapters with subgroups. Shapes and formula:
//! norm_gemv_i8.wgsl.

use crate::kernel::{Access, Call, Kernel};
use crate::linear::integer::Weights;
use crate::linear::norm_input;
pub use crate::linear::norm_input::{GemvParams as Params, gemv_grid as grid};

pub const KERNEL: Kernel = Kernel {
    name: "norm_gemv_i8",
    source: &[
        include_str!("norm_gemv_i8.wgsl"),
        include_str!("norm_gemv.wgsl"),
        include_str!("norm_input.wgsl"),
        include_str!("../norm/workgroup_sum.wgsl"),
        include_str!("gemv_steps_i8.wgsl"),
        include_str!("subgroup_pairs.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: true,
    run,
};

fn run(call: &mut Call<'_>) {
    norm_input::gemv(call, Weights::Int8);
}
