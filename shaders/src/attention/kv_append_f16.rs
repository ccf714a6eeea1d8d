//! New keys and values into pools of f16. Shapes and formula: kv_append.wgsl.

use super::kv_append::kernel;
pub use super::kv_append::{Params, grid_of_four as grid};
use super::pools::F16;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = kernel::<F16>(
    "kv_append_f16",
    &[
        include_str!("kv_append.wgsl"),
        include_str!("half_bits.wgsl"),
        include_str!("kv_append_heads.wgsl"),
        include_str!("kv_append_f16.wgsl"),
    ],
);
