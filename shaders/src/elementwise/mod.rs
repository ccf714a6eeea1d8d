//! One output for one input position.

pub mod silu_mul;
