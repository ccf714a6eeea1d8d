//! Attention, a tile of rows per workgroup, over pools of f16. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::prefill;
use super::pools::F16;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill::<F16>(
    "attention_prefill_f16",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f16.wgsl"),
        include_str!("attention_prefill.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("attention_prefill_f16.wgsl"),
    ],
);
