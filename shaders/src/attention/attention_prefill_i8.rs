//! Attention, a tile of rows per workgroup, over pools of i8. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::prefill;
use super::pools::I8;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill::<I8>(
    "attention_prefill_i8",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_i8.wgsl"),
        include_str!("attention_prefill.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("attention_prefill_i8.wgsl"),
    ],
);
