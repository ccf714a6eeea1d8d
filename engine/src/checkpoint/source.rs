//! Bytes at a position: the only way in which weights are read.

use super::LoadError;
use std::fs::File;
use std::path::Path;

/// A file or a piece of memory that is read at positions. No memory map: a truncated file would be a signal.
#[derive(Debug)]
pub enum ByteSource {
    File { name: String, file: File, len: u64 },
    Memory { name: String, bytes: &'static [u8] },
}

impl ByteSource {
    /// Opens a regular file; its path is its name.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        // Asked before opening, since opening a pipe would wait for its other end.
        let io = |source| LoadError::Io {
            file: name.clone(),
            source,
        };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() {
                "a folder"
            } else {
                "neither file nor folder"
            };
            return Err(LoadError::invalid(&name, "kind", found, "a file"));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self::File { name, file, len })
    }

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
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LoadError> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .filter(|&end| end <= self.len());
        let Some(end) = end else {
            return Err(self.truncated(offset, buffer.len(), self.len()));
        };
        match self {
            Self::File { name, file, .. } => match read_exact_at(file, offset, buffer) {
                // The file became shorter since it was opened.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    let len = file.metadata().map_or(0, |metadata| metadata.len());
                    Err(self.truncated(offset, buffer.len(), len))
                }
                Err(source) => Err(LoadError::Io {
                    file: name.clone(),
                    source,
                }),
                Ok(()) => Ok(()),
            },
            Self::Memory { bytes, .. } => {
                // Both fit in usize: `end` is at most the length of a slice.
                buffer.copy_from_slice(&bytes[offset as usize..end as usize]);
                Ok(())
            }
        }
    }

    /// The whole source as text, if it is no longer than `limit` bytes.
    pub async fn read_text(&self, limit: u64) -> Result<String, LoadError> {
        let bytes = self.read_all(limit).await?;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            LoadError::invalid(
                self.name(),
                "text",
                format!("a byte that is not UTF-8 at {at}"),
                "UTF-8",
            )
        })
    }

    /// The whole source, if it is no longer than `limit` bytes.
    pub async fn read_all(&self, limit: u64) -> Result<Vec<u8>, LoadError> {
        if self.len() > limit {
            return Err(LoadError::invalid(
                self.name(),
                "length",
                format!("{} bytes", self.len()),
                format!("at most {limit}"),
            ));
        }
        let mut bytes = vec![0; self.len() as usize];
        self.read_at(0, &mut bytes).await?;
        Ok(bytes)
    }

    fn truncated(&self, offset: u64, wanted: usize, len: u64) -> LoadError {
        LoadError::invalid(
            self.name(),
            format!("read of {wanted} bytes at offset {offset}"),
            format!("the end of the file at {len}"),
            format!("at least {} bytes", u128::from(offset) + wanted as u128),
        )
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::ErrorKind;
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Elsewhere (the web, where there are no files but the crate compiles) the file's own position is moved, so reads of one file
/// may not run on several threads.
#[cfg(not(any(unix, windows)))]
fn read_exact_at(mut file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}
