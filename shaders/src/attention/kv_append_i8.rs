//! New keys and values into pools of i8. Shapes and formula: kv_append.wgsl.

use super::kv_append::kernel;
pub use super::kv_append::{Params, grid_of_one as grid};
use super::pools::I8;
use crate::kernel::Kernel;

pub const KERNEL: Kernel = kernel::<I8>(
    "kv_append_i8",
    &[
        include_str!("../quantize/absmax.wgsl"),
        include_str!("kv_append.wgsl"),
        include_str!("kv_append_i8.wgsl"),
    ],
);
