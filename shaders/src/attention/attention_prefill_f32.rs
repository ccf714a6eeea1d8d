//! Attention, a tile of rows per workgroup, over pools of f32. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::prefill;
use super::pools::F32;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill::<F32>(
    "attention_prefill_f32",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f32.wgsl"),
        include_str!("attention_prefill.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("attention_prefill_f32.wgsl"),
    ],
);
