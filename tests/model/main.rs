//! Whole models: against independent references, and against themselves in other batches, chunks and executors.

mod bisect;
mod continuation;
mod errors;
mod eval;
mod flattened;
mod fused;
mod kv_prefix;
mod profile;
mod promises;
mod references;
mod rounded;
