//! Typed functions over a plan: each chooses a kernel, fills its parameters and adds its dispatch.

mod attention;
mod elementwise;
mod linear;
mod norm;
mod producer;
mod sampling;

pub use attention::{
    AttentionInput, AttentionShape, KvPools, kv_append, kv_block_words, planned_pages, rope,
    rotates,
};
pub use elementwise::{EmbeddingTable, add_positions, embedding, gather_rows, stored_row};
use elementwise::{relu, silu_mul};
pub use linear::{
    Activations, Input, Linear, Projection, RowRange, StaticInput, WeightFormat, gated, projection,
};
use norm::rms_norm;
pub use norm::{head_norm, layer_norm};
pub use producer::Producer;
pub use sampling::{Sampling, SamplingBuffers, sample_and_advance};

use crate::plan::{Features, GemmUnit};
use plateau_shaders::Matrices;

/// Up to so many rows, linears run as matrix-vector products and attention one row at a time; above, in tiles. The results
/// are the same bits.
pub const GEMV_ROWS: u32 = 8;

/// Operation and the kernels that run it on a device with `features`, for `devices`: few rows / many rows, or few keys / many.
pub fn kernel_choices(features: Features) -> Vec<(&'static str, &'static str)> {
    let by_subgroup = features.subgroups;
    // There are no matrices without subgroups.
    let (int8, int4) = match (by_subgroup, features.gemms) {
        (true, GemmUnit::Dot4) => ("gemv_i8_subgroup / gemm_i8", "gemv_i4_subgroup / gemm_i4"),
        (true, GemmUnit::F32) => (
            "gemv_i8_subgroup / gemm_i8_f32",
            "gemv_i4_subgroup / gemm_i4_f32",
        ),
        (true, GemmUnit::Matrices(Matrices::F16By8)) => (
            "gemv_i8_subgroup / gemm_i8_coop8",
            "gemv_i4_subgroup / gemm_i4_coop8",
        ),
        (true, GemmUnit::Matrices(Matrices::F16)) => (
            "gemv_i8_subgroup / gemm_i8_coop16",
            "gemv_i4_subgroup / gemm_i4_coop16",
        ),
        (true, GemmUnit::Matrices(Matrices::Int8)) => (
            "gemv_i8_subgroup, gemm_i8_coop16_int8_few / gemm_i8_coop16_int8",
            "gemv_i4_subgroup, gemm_i4_coop16_int8_few / gemm_i4_coop16_int8",
        ),
        (false, GemmUnit::F32) => ("gemv_i8 / gemm_i8_f32", "gemv_i4 / gemm_i4_f32"),
        (false, _) => ("gemv_i8 / gemm_i8", "gemv_i4 / gemm_i4"),
    };
    let mut choices = vec![
        ("linear f32", "gemv_f32 / gemm_f32"),
        ("linear f16", "gemv_f16 / gemm_f16"),
        ("linear int8", int8),
        ("linear int4", int4),
        (
            "attention f32",
            "attention_decode_f32 / attention_prefill_f32",
        ),
        (
            "attention f16",
            "attention_decode_f16 / attention_prefill_f16",
        ),
        ("attention i8", "attention_decode_i8 / attention_prefill_i8"),
    ];
    if features.fused {
        choices.push((
            "rope and attention f16, decode step",
            "rope_attention_f16 / rope_attention_f16_split, rope_attention_f16_split4",
        ));
    }
    if features.fused && by_subgroup {
        choices.extend([
            ("norm and linear int8, one static row", "norm_gemv_i8"),
            ("norm and linear int4, one static row", "norm_gemv_i4"),
            ("norm, gate and up int8, one static row", "norm_gate_up_i8"),
            ("norm, gate and up int4, one static row", "norm_gate_up_i4"),
        ]);
    }
    choices
}
