//! Attention, a tile of rows per workgroup, on f16 cooperative matrices over pools of f16, to the integers of the linear that follows.
//! Shapes and formula: attention_coop16.wgsl.

use super::paged_attention::prefill_coop16_flat;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill_coop16_flat(
    "attention_prefill_coop16_flat",
    &[
        include_str!("attention_prefill_coop16_flat.wgsl"),
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("attention_coop16.wgsl"),
        include_str!("prefill_coop16.wgsl"),
        include_str!("output_flat.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
    ],
);
