//! Rotary positions, the paged KV cache, and attention over it.

pub mod attention_decode_f16;
pub mod attention_decode_f32;
pub mod attention_prefill_f16;
pub mod attention_prefill_f32;
mod kv_append;
pub mod kv_append_f16;
pub mod kv_append_f32;
mod paged_attention;
pub mod rope;

pub use paged_attention::{TILE, max_tiles, tiles};
