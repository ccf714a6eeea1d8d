//! Rope, the append to pools of f16, and attention on f16 cooperative matrices, each page of a row for itself, of rows of one sequence
//! each. Shapes and formula: rope_attention_coop16_split.wgsl.

use super::paged_attention::{Inputs, Params, rounded_queries};
use super::rope_attention::{rotated_and_appended, split};
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "rope_attention_coop16_split",
    source: &[
        include_str!("rope_attention_coop16_split.wgsl"),
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("attention_coop16.wgsl"),
        include_str!("params.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: true,
    run,
};

/// Workgroups in x, y, z, for `slots` pages of each row.
pub fn grid(params: &Params, slots: u32) -> [u32; 3] {
    [params.heads, params.count, slots]
}

fn run(call: &mut Call<'_>) {
    let params: Params = call.params();
    let partials = call.write(7);
    rotated_and_appended(&params, call, |inputs| {
        let (params, queries) = rounded_queries(&params, inputs.qkv);
        let inputs = Inputs {
            qkv: &queries,
            ..*inputs
        };
        split(&params, &inputs, partials);
    });
}
