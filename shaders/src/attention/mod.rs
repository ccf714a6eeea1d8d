//! Rotary positions, the paged KV cache, and attention over it.

mod kv_append;
pub mod kv_append_f16;
pub mod kv_append_f32;
pub mod rope;
