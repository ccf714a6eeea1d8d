//! Attention, a tile of rows per workgroup, on f16 cooperative matrices over pools of f16. Shapes and formula: attention_coop16.wgsl.

use super::paged_attention::prefill_coop16;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill_coop16(
    "attention_prefill_coop16",
    &[
        include_str!("attention_prefill_coop16.wgsl"),
        include_str!("paged_attention.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("attention_coop16.wgsl"),
        include_str!("prefill_coop16.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
    ],
);
