//! Attention, a tile of rows per workgroup, over pools of f32, to the integers of the linear that follows. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::prefill_flat;
use super::pools::F32;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = prefill_flat::<F32>(
    "attention_prefill_f32_flat",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f32.wgsl"),
        include_str!("attention_prefill.wgsl"),
        include_str!("output_flat.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
        include_str!("attention_prefill_f32_flat.wgsl"),
    ],
);
