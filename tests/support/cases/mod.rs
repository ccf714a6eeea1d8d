//! The table of cases: what the kernel tests run on every adapter, what CUDA parity will run, and what the benches time.

use crate::case::Case;

pub mod attention;
pub mod elementwise;
pub mod linear_float;
pub mod linear_int;
pub mod norm;
pub mod quantize;
pub mod sampling;

/// Every case of every kernel.
pub fn all() -> Vec<Case> {
    [
        elementwise::cases(),
        norm::cases(),
        attention::cases(),
        linear_float::cases(),
        linear_int::cases(),
        quantize::cases(),
        sampling::cases(),
    ]
    .concat()
}
