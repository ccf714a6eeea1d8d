//! The end of attention over split pages. Shapes and formula: merge.wgsl.

use super::paged_attention::Params;
use super::rope_attention::merge;
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "attention_merge",
    source: &[
        include_str!("merge.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("attention_merge.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    let params: Params = call.params();
    let y = merge(&params, call.read(1), call.read(2));
    call.write::<f32>(3)[..y.len()].copy_from_slice(&y);
}
