//! Plateau: everything between a checkpoint and a token.
//!
//! `ARCHITECTURE.md` beside this crate is the map. The usual path through the public names:
//! [`checkpoint::Folder`] → [`checkpoint::Checkpoint`] → [`exec::open`] → [`session::Session`] → tokens.

pub mod checkpoint;
pub mod eval;
pub mod exec;
pub mod model;
pub mod ops;
pub mod plan;
pub mod quantize;
pub mod sampler;
pub mod session;
pub mod tensor;
pub mod tokenizer;

mod error;
pub use error::Error;
