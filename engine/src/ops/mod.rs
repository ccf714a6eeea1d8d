//! Typed functions over a plan: each chooses a kernel, fills its parameters and adds its dispatch.

mod attention;
mod elementwise;
mod linear;
mod norm;
mod sampling;

pub use attention::{AttentionInput, AttentionShape, KvPools, attention, kv_append, rope};
pub use elementwise::{EmbeddingTable, embedding, gather_rows, silu_mul};
pub use linear::{
    Activations, Input, Linear, Projection, RowRange, StaticInput, WeightFormat, projection,
};
pub use norm::{head_norm, rms_norm};
pub use sampling::{Sampling, SamplingBuffers, sample_and_advance};

/// Up to so many rows, linears run as matrix-vector products and attention one row at a time; above, in tiles. The results
/// are the same bits.
pub const GEMV_ROWS: u32 = 8;

/// Operation and the kernels that run it, for `devices`: few rows / many rows.
pub const KERNEL_CHOICES: &[(&str, &str)] = &[
    ("linear f32", "gemv_f32 / gemm_f32"),
    ("linear f16", "gemv_f16 / gemm_f16"),
    ("linear int8", "gemv_i8 / gemm_i8"),
    ("linear int4", "gemv_i4 / gemm_i4"),
    (
        "attention f32",
        "attention_decode_f32 / attention_prefill_f32",
    ),
    (
        "attention f16",
        "attention_decode_f16 / attention_prefill_f16",
    ),
];
