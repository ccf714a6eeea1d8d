//! Rope, the append to pools of f16, and attention, of rows of one sequence each. Shapes and formula: rope_attention.wgsl.

use super::paged_attention::{Params, float};
use super::pools::F16;
use super::rope_attention::rotated_and_appended;
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "rope_attention_f16",
    source: &[
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("rope_attention_head.wgsl"),
        include_str!("rope_attention.wgsl"),
        include_str!("rope_attention_whole.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("rope_attention_f16.wgsl"),
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
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    let params: Params = call.params();
    let y = call.write(7);
    rotated_and_appended(&params, call, |inputs| {
        float::<F16>(&params, 0..params.count, inputs, y);
    });
}
