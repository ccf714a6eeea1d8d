//! Products with a weight matrix: `gemm_*` for many rows, `gemv_*` for few. One result, whichever runs.

mod float_linear;
pub mod gemm_f16;
pub mod gemm_f32;
pub mod gemm_i4;
pub mod gemm_i4_coop16;
pub mod gemm_i4_coop16_int8;
pub mod gemm_i4_coop16_int8_few;
pub mod gemm_i4_coop8;
pub mod gemm_i4_f32;
pub mod gemm_i8;
pub mod gemm_i8_coop16;
pub mod gemm_i8_coop16_int8;
pub mod gemm_i8_coop16_int8_few;
pub mod gemm_i8_coop8;
pub mod gemm_i8_f32;
pub mod gemv_f16;
pub mod gemv_f32;
pub mod gemv_i4;
pub mod gemv_i4_subgroup;
pub mod gemv_i8;
pub mod gemv_i8_subgroup;
pub mod integer;
pub mod norm_gate_up_i4;
pub mod norm_gate_up_i8;
pub mod norm_gemv_i4;
pub mod norm_gemv_i8;
pub mod norm_input;
