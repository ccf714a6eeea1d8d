//! Rotary positions, the paged KV cache, and attention over it.

pub mod attention_decode_f16;
pub mod attention_decode_f16_flat;
pub mod attention_decode_f32;
pub mod attention_decode_f32_flat;
pub mod attention_decode_i8;
pub mod attention_decode_i8_flat;
pub mod attention_merge;
pub mod attention_merge_flat;
pub mod attention_prefill_coop16;
pub mod attention_prefill_coop16_flat;
pub mod attention_prefill_f16;
pub mod attention_prefill_f16_flat;
pub mod attention_prefill_f32;
pub mod attention_prefill_f32_flat;
pub mod attention_prefill_i8;
pub mod attention_prefill_i8_flat;
pub mod kv_append;
pub mod kv_append_f16;
pub mod kv_append_f32;
pub mod kv_append_i8;
mod output_flat;
pub mod paged_attention;
mod pools;
pub mod rope;
pub mod rope_attention;
pub mod rope_attention_coop16_split;
pub mod rope_attention_f16;
pub mod rope_attention_f16_flat;
pub mod rope_attention_f16_split;
pub mod rope_attention_f16_split4;

pub use output_flat::map_with_runs;
pub use paged_attention::{TILE, max_tiles, tiles};
pub use pools::{F16, F32, I8, KvFormat};
