//! One output for one input position.

mod embedding;
pub mod embedding_f16;
pub mod embedding_f32;
pub mod embedding_i8;
pub mod gather_rows;
pub mod silu_mul;
