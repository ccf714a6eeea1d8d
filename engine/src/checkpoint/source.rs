//! Bytes at a position: the only way in which weights are read.

use super::LoadError;

/// A file or a piece of memory that is read at positions. No memory map: a truncated file would be a signal.
pub enum ByteSource {
    File {
        name: String,
        file: std::fs::File,
        len: u64,
    },
    Memory {
        name: String,
        bytes: &'static [u8],
    },
}

impl ByteSource {
    pub fn name(&self) -> &str {
        match self {
            Self::File { name, .. } | Self::Memory { name, .. } => name,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory { bytes, .. } => bytes.len() as u64,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset`; an error where the source ends before.
    pub async fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), LoadError> {
        unimplemented!("checkpoint")
    }
}
