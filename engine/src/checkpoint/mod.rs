//! Reading and writing checkpoints: Hugging Face folders, float or quantized.

mod config;
mod error;
mod folder;
mod json;
mod names;
mod quantized;
mod safetensors;
mod source;
mod write;

pub use config::{
    Architecture, Family, GenerationConfig, LlamaConfig, MAX_FEATURES, MAX_HEAD_DIM, MAX_HEADS,
    MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, ModelConfig, OptConfig, RopeConfig, RopeScaling,
};
pub use error::{LoadError, LoadErrorKind};
pub use folder::Folder;
pub use names::{Fold, HEAD, LayerShape, LinearGroup, LinearShape, NormShape};
pub use quantized::{
    ActivationFormat, BadFlattenMap, FLATTEN_PADDING, FORMAT_VERSION, KvPrefix, LinearFormat,
    MAX_PARTS, MAX_PREFIX_TOKENS, QUANT_METHOD, QuantizationConfig, TABLE_FORMAT,
    check_flatten_map,
};
pub use safetensors::{Checkpoint, Dtype, DtypeName, TensorInfo};
pub use source::ByteSource;
pub use write::{CheckpointWriter, DEFAULT_SHARD_BYTES, NewTensor, WriteError};
pub(crate) use write::{CopyError, copy_beside};
