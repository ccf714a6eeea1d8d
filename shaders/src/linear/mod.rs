//! Linear layers: many rows (`gemm_*`) and few (`gemv_*`).

pub mod gemm_i4;
pub mod gemm_i8;
pub mod gemv_i4;
pub mod gemv_i8;
pub mod integer;
