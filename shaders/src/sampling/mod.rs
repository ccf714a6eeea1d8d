//! Logits to tokens, and what follows a token.

pub mod advance;
pub mod argmax;
pub mod repeat_penalty;
pub mod sample;
