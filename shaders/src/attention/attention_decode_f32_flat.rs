//! Attention, one row per workgroup, over pools of f32, to the integers of the linear that follows. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::decode_flat;
use super::pools::F32;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = decode_flat::<F32>(
    "attention_decode_f32_flat",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f32.wgsl"),
        include_str!("attention_decode.wgsl"),
        include_str!("output_flat.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
        include_str!("attention_decode_f32_flat.wgsl"),
    ],
);
