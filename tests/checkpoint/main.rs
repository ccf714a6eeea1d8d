//! Folders, headers, configurations, tokenizers and the quantized checkpoint: what is read, what is refused and how, and
//! that what is written is what is read. Every test makes its own small files.

mod configs;
mod files;
mod folders;
mod headers;
mod quantized;
mod shared_models;
mod tokenizers;
