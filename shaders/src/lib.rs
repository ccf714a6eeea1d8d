//! Plateau's compute kernels.
//!
//! A kernel is a pair of files with one stem: `<kernel>.wgsl` is what a GPU runs, `<kernel>.rs` holds its parameters, its
//! grid and its *twin*, the plain Rust loop that defines the operation. [`KERNELS`] lists them all. This crate knows no GPU
//! API, no model and no file format; `README.md` beside it says how to add a kernel.

pub mod attention;
pub mod elementwise;
mod kernel;
pub mod linear;
pub mod norm;
pub mod pack;
pub mod quantize;
pub mod sampling;

pub use kernel::{Access, Buffer, Call, Constant, FEW_REGISTERS, Kernel, Matrices, div_ceil};

/// Every kernel, one line each, in the order of the folders.
pub const KERNELS: &[&Kernel] = &[
    // elementwise
    &elementwise::embedding_f32::KERNEL,
    &elementwise::embedding_f16::KERNEL,
    &elementwise::embedding_i8::KERNEL,
    &elementwise::gather_rows::KERNEL,
    &elementwise::silu_mul::KERNEL,
    &elementwise::silu_mul_flat::KERNEL,
    &elementwise::relu::KERNEL,
    &elementwise::relu_flat::KERNEL,
    &elementwise::add_positions::KERNEL,
    &elementwise::stored_row::KERNEL,
    // norm
    &norm::rms_norm::KERNEL,
    &norm::rms_norm_flat::KERNEL,
    &norm::layer_norm::KERNEL,
    &norm::layer_norm_flat::KERNEL,
    &norm::head_norm::KERNEL,
    // attention
    &attention::rope::KERNEL,
    &attention::kv_append_f32::KERNEL,
    &attention::kv_append_f16::KERNEL,
    &attention::kv_append_i8::KERNEL,
    &attention::attention_decode_f32::KERNEL,
    &attention::attention_decode_f16::KERNEL,
    &attention::attention_decode_i8::KERNEL,
    &attention::attention_decode_f32_flat::KERNEL,
    &attention::attention_decode_f16_flat::KERNEL,
    &attention::attention_decode_i8_flat::KERNEL,
    &attention::rope_attention_f16::KERNEL,
    &attention::rope_attention_f16_flat::KERNEL,
    &attention::rope_attention_f16_split::KERNEL,
    &attention::rope_attention_f16_split4::KERNEL,
    &attention::attention_merge::KERNEL,
    &attention::attention_merge_flat::KERNEL,
    &attention::attention_prefill_f32::KERNEL,
    &attention::attention_prefill_f16::KERNEL,
    &attention::attention_prefill_i8::KERNEL,
    &attention::attention_prefill_f32_flat::KERNEL,
    &attention::attention_prefill_f16_flat::KERNEL,
    &attention::attention_prefill_i8_flat::KERNEL,
    &attention::rope_attention_coop16_split::KERNEL,
    &attention::attention_prefill_coop16::KERNEL,
    &attention::attention_prefill_coop16_flat::KERNEL,
    // linear
    &linear::gemm_f32::KERNEL,
    &linear::gemm_f16::KERNEL,
    &linear::gemv_f32::KERNEL,
    &linear::gemv_f16::KERNEL,
    &linear::gemm_i4::KERNEL,
    &linear::gemm_i8::KERNEL,
    &linear::gemm_i4_f32::KERNEL,
    &linear::gemm_i8_f32::KERNEL,
    &linear::gemm_i4_coop16::KERNEL,
    &linear::gemm_i8_coop16::KERNEL,
    &linear::gemm_i4_coop8::KERNEL,
    &linear::gemm_i8_coop8::KERNEL,
    &linear::gemm_i4_coop16_int8::KERNEL,
    &linear::gemm_i4_coop16_int8_few::KERNEL,
    &linear::gemm_i8_coop16_int8::KERNEL,
    &linear::gemm_i8_coop16_int8_few::KERNEL,
    &linear::gemv_i4::KERNEL,
    &linear::gemv_i4_subgroup::KERNEL,
    &linear::gemv_i8::KERNEL,
    &linear::gemv_i8_subgroup::KERNEL,
    &linear::norm_gemv_i4::KERNEL,
    &linear::norm_gemv_i8::KERNEL,
    &linear::norm_gate_up_i4::KERNEL,
    &linear::norm_gate_up_i8::KERNEL,
    // quantize
    &quantize::flatten_quantize::KERNEL,
    &quantize::gram_cross::KERNEL,
    &quantize::gram_f32::KERNEL,
    &quantize::gram_i8::KERNEL,
    &quantize::quantize_dynamic::KERNEL,
    // sampling
    &sampling::argmax::KERNEL,
    &sampling::argmax_parts::KERNEL,
    &sampling::repeat_penalty::KERNEL,
    &sampling::sample::KERNEL,
];

/// The kernel of that name, if there is one.
pub fn kernel(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|kernel| kernel.name == name)
}

/// Features per step of a linear's inner dimension. Rows of integer activations and of all weights are padded with
/// zeros to a multiple of it, so that every row starts on 16 bytes and no kernel has a ragged inner loop.
pub const K_STEP: u32 = 32;

/// Keys per page of the KV cache, and the unit of attention's sum: see `attention/`.
pub const PAGE_SIZE: u32 = 64;

/// `features` rounded up to whole [`K_STEP`]s.
pub const fn padded(features: u32) -> u32 {
    features.div_ceil(K_STEP) * K_STEP
}
