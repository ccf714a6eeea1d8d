//! One output for one input position.

pub mod add_positions;
mod embedding;
pub mod embedding_f16;
pub mod embedding_f32;
pub mod embedding_i8;
pub mod gather_rows;
pub mod relu;
pub mod relu_flat;
pub mod silu_mul;
pub mod silu_mul_flat;
pub mod stored_row;
