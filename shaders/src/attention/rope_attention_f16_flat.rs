//! As rope_attention_f16, to the integers of the linear that follows. Shapes and formula: rope_attention.wgsl.

use super::paged_attention::{FlatParams, flat};
use super::pools::F16;
use super::rope_attention::rotated_and_appended;
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "rope_attention_f16_flat",
    source: &[
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("rope_attention_head.wgsl"),
        include_str!("rope_attention.wgsl"),
        include_str!("rope_attention_whole.wgsl"),
        include_str!("output_flat.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
        include_str!("rope_attention_f16_flat.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::Read,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<FlatParams>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    let params: FlatParams = call.params();
    let (map, x_q) = (call.read(7), call.write(8));
    rotated_and_appended(&params.attention, call, |inputs| {
        flat::<F16>(&params, 0..params.attention.count, inputs, map, x_q);
    });
}
