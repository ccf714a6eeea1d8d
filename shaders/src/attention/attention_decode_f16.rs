//! Attention, one row per workgroup, over pools of f16. Shapes and formula: paged_attention.wgsl.

use super::paged_attention::decode;
use super::pools::F16;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = decode::<F16>(
    "attention_decode_f16",
    &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f16.wgsl"),
        include_str!("attention_decode.wgsl"),
        include_str!("output_float.wgsl"),
        include_str!("params.wgsl"),
        include_str!("attention_decode_f16.wgsl"),
    ],
);
