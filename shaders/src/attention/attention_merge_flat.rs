//! As attention_merge, to the integers of the linear that follows. Shapes and formula: merge.wgsl.

use super::paged_attention::FlatParams;
use super::rope_attention::{merge, quantize};
use crate::kernel::{Access, Call, Kernel};
use crate::quantize::flatten_quantize;

pub const KERNEL: Kernel = Kernel {
    name: "attention_merge_flat",
    source: &[
        include_str!("merge.wgsl"),
        include_str!("output_flat.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
        include_str!("attention_merge_flat.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<FlatParams>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    let params: FlatParams = call.params();
    let y = merge(&params.attention, call.read(1), call.read(2));
    flatten_quantize::reference(&quantize(&params), &y, call.read(3), call.write(4));
}
