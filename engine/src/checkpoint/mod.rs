//! Reading and writing checkpoints: Hugging Face folders, float or quantized.

mod config;
mod error;
mod folder;
mod quantized;
mod safetensors;
mod source;

pub use config::{Family, GenerationConfig, ModelConfig, RopeConfig, RopeScaling};
pub use error::LoadError;
pub use folder::Folder;
pub use quantized::{ActivationScale, LinearFormat, QuantizationConfig};
pub use safetensors::{Checkpoint, Dtype, TensorInfo};
pub use source::ByteSource;
