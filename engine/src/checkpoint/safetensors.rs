//! Tensors of a checkpoint: one `model.safetensors`, or shards with an index.

use super::{ByteSource, Folder, GenerationConfig, LoadError, ModelConfig, QuantizationConfig};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    U32,
    I32,
    U8,
}

/// Where a tensor lies. Checked against its file: in range, and as long as shape and dtype say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Index of the shard.
    pub file: usize,
    /// First byte in the file.
    pub offset: u64,
    pub bytes: u64,
}

/// An opened checkpoint: headers are read and checked, no weight is.
pub struct Checkpoint {
    pub folder: Folder,
    pub config: ModelConfig,
    pub generation: GenerationConfig,
    /// `None` for a float model.
    pub quantization: Option<QuantizationConfig>,
    pub tensors: BTreeMap<String, TensorInfo>,
    files: Vec<ByteSource>,
}

impl Checkpoint {
    pub async fn open(_folder: Folder) -> Result<Self, LoadError> {
        unimplemented!("checkpoint")
    }

    /// The tensor's info; an error that names it when missing, or when its shape is not `shape`.
    pub fn expect(&self, _name: &str, _shape: &[u64]) -> Result<&TensorInfo, LoadError> {
        unimplemented!("checkpoint")
    }

    /// Raw bytes of a tensor from `offset` (in the tensor).
    pub async fn read(
        &self,
        _name: &str,
        _offset: u64,
        _buffer: &mut [u8],
    ) -> Result<(), LoadError> {
        unimplemented!("checkpoint")
    }

    /// `len` elements of a float tensor from element `first`, widened to f32. NaN and infinity are errors.
    pub async fn read_f32(
        &self,
        _name: &str,
        _first: u64,
        _len: usize,
    ) -> Result<Vec<f32>, LoadError> {
        unimplemented!("checkpoint")
    }

    /// `len` words of a U32 or I32 tensor from word `first`.
    pub async fn read_u32(
        &self,
        _name: &str,
        _first: u64,
        _len: usize,
    ) -> Result<Vec<u32>, LoadError> {
        unimplemented!("checkpoint")
    }

    /// The file that holds a tensor, for messages.
    pub fn file_of(&self, tensor: &TensorInfo) -> &str {
        self.files[tensor.file].name()
    }
}
