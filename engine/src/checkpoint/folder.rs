//! Where a model lives: a folder on disk, an entry of the Hugging Face cache, or the model built into the binary.

use super::{ByteSource, LoadError};
use std::path::PathBuf;

/// A folder of files in Hugging Face layout.
#[derive(Clone, Debug)]
pub enum Folder {
    Disk(PathBuf),
    Embedded {
        name: &'static str,
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Folder {
    /// The model that is part of the binary.
    pub fn builtin() -> Self {
        unimplemented!("checkpoint")
    }

    /// `model` is the path of a folder, or `owner/name` in the local Hugging Face cache.
    pub fn resolve(_model: &str) -> Result<Self, LoadError> {
        unimplemented!("checkpoint")
    }

    /// For messages: the path, or the built-in model's name.
    pub fn name(&self) -> String {
        unimplemented!("checkpoint")
    }

    pub fn contains(&self, _file: &str) -> bool {
        unimplemented!("checkpoint")
    }

    pub fn open(&self, _file: &str) -> Result<ByteSource, LoadError> {
        unimplemented!("checkpoint")
    }
}
