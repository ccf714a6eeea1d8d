//! As rope_attention_f16_split, for up to four query heads of a kv head at once. Shapes and formula: rope_attention_split.wgsl.

use super::paged_attention::Params;
use super::rope_attention::{rotated_and_appended, split};
use crate::kernel::{Access, Call, Kernel, div_ceil};

pub const KERNEL: Kernel = Kernel {
    name: "rope_attention_f16_split4",
    source: &[
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("rope_attention.wgsl"),
        include_str!("rope_attention_split.wgsl"),
        include_str!("rope_attention_f16_split4.wgsl"),
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
    subgroups: false,
    run,
};

/// Query heads of a workgroup.
const HEADS: u32 = 4;

/// Workgroups in x, y, z, for `slots` pages of each row.
pub fn grid(params: &Params, slots: u32) -> [u32; 3] {
    let parts = div_ceil(params.heads / params.kv_heads, HEADS);
    [params.kv_heads * parts, params.count, slots]
}

fn run(call: &mut Call<'_>) {
    let params: Params = call.params();
    let partials = call.write(7);
    rotated_and_appended(&params, call, |inputs| split(&params, inputs, partials));
}
