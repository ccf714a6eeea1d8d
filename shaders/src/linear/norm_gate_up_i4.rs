//! The first half of a gated MLP for one row: a norm, flat integers, an INT4 linear, SwiGLU, flat integers; on adapters with
//! subgroups. Shapes and formula: norm_gate_up_i4.wgsl.

use crate::kernel::{Access, Call, Kernel};
use crate::linear::integer::Weights;
use crate::linear::norm_input;
pub use crate::linear::norm_input::{GateUpParams as Params, gate_up_grid as grid};

pub const KERNEL: Kernel = Kernel {
    name: "norm_gate_up_i4",
    source: &[
        include_str!("norm_gate_up_i4.wgsl"),
        include_str!("norm_gate_up.wgsl"),
        include_str!("norm_input.wgsl"),
        include_str!("../norm/workgroup_sum.wgsl"),
        include_str!("gemv_steps_i4.wgsl"),
        include_str!("unpack_i4.wgsl"),
        include_str!("subgroup_pairs.wgsl"),
        include_str!("../elementwise/silu_mul_of.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
    ],
    bindings: &[
        Access::Read,
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
    norm_input::gate_up(call, Weights::Int4);
}
