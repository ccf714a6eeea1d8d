//! Writing checkpoints: headers first, from names and shapes, then the tensors as they come. The model is never in memory, and
//! the same tensors make the same bytes.

use super::safetensors::{INDEX_FILE, LENGTH_BYTES, SINGLE_FILE};
use super::{ByteSource, Dtype, Folder, LoadError};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Size above which a new shard is begun: below the 2 GiB that some file systems and readers stop at.
pub const DEFAULT_SHARD_BYTES: u64 = (2 << 30) - (1 << 20);
/// Headers are padded with spaces to this, so that tensors start aligned.
const ALIGNMENT: u64 = 8;
/// Files of a float model that its quantized one has unchanged.
const COPIED: [&str; 3] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];
/// Longest of them.
const MAX_COPIED_BYTES: u64 = 1 << 28;

/// Why a checkpoint cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{file}: {source}")]
    Io {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{folder}: has a {file} already; a checkpoint is written into a folder without one")]
    Occupied { folder: String, file: String },
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
}

impl NewTensor {
    pub fn bytes(&self) -> u64 {
        let bits = self
            .dtype
            .bits()
            .expect("only known data types are written");
        self.shape.iter().product::<u64>() * bits / 8
    }
}

/// Writes tensors in the order in which they were announced.
pub struct CheckpointWriter {
    folder: PathBuf,
    shards: Vec<Shard>,
    /// Index of the shard being written, of the tensor in it, and how much of that is there.
    shard: usize,
    tensor: usize,
    written: u64,
    out: Option<BufWriter<File>>,
}

struct Shard {
    file: String,
    tensors: Vec<NewTensor>,
}

impl CheckpointWriter {
    /// Makes `folder` where it is not there. `shard_bytes`: a shard ends before the tensor that would make its data longer
    /// than this; a tensor that is longer has a shard of its own. An error if the folder holds a checkpoint already.
    ///
    /// Panics on tensors of a data type that this program does not know.
    pub fn create(
        folder: &Path,
        tensors: Vec<NewTensor>,
        shard_bytes: u64,
    ) -> Result<Self, WriteError> {
        let io = |source| WriteError::Io {
            file: folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let file = entry
                .map_err(io)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            // A stale file would be read in place of a new one.
            if file.ends_with(".safetensors") || file == INDEX_FILE || file == "config.json" {
                return Err(WriteError::Occupied {
                    folder: folder.display().to_string(),
                    file,
                });
            }
        }
        let shards = split(tensors, shard_bytes);
        let mut writer = Self {
            folder: folder.to_owned(),
            shards,
            shard: 0,
            tensor: 0,
            written: 0,
            out: None,
        };
        writer.begin_shard()?;
        writer.skip_finished()?;
        Ok(writer)
    }

    /// The next bytes of tensor `name`. Panics when they are not the next ones: another tensor's turn, or too many.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let current = self
            .shards
            .get(self.shard)
            .and_then(|shard| shard.tensors.get(self.tensor));
        let tensor = current.expect("more bytes than were announced");
        assert_eq!(
            tensor.name, name,
            "tensors are written in the order in which they were announced"
        );
        self.written += bytes.len() as u64;
        assert!(
            self.written <= tensor.bytes(),
            "{name} has more bytes than were announced"
        );
        self.write(bytes)?;
        self.skip_finished()
    }

    /// [`CheckpointWriter::append`] of words.
    pub fn append_words(&mut self, name: &str, words: &[u32]) -> Result<(), WriteError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.append(name, &bytes)
    }

    /// [`CheckpointWriter::append`] of floats.
    pub fn append_f32(&mut self, name: &str, values: &[f32]) -> Result<(), WriteError> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.append(name, &bytes)
    }

    /// Writes the index if there are several shards, and `config` as `config.json`: last, so that a folder with a config is
    /// whole. Panics when a tensor is missing.
    pub fn finish(self, config: &Value) -> Result<(), WriteError> {
        assert_eq!(
            self.shard,
            self.shards.len(),
            "a tensor that was announced was not written"
        );
        if self.shards.len() > 1 {
            let mut weight_map = Map::new();
            let mut total = 0;
            for shard in &self.shards {
                for tensor in &shard.tensors {
                    weight_map.insert(tensor.name.clone(), Value::from(shard.file.as_str()));
                    total += tensor.bytes();
                }
            }
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            write_json(&self.folder.join(INDEX_FILE), &index)?;
        }
        write_json(&self.folder.join("config.json"), config)
    }

    /// Goes on to the tensor that still lacks bytes, over those that are complete (or empty).
    fn skip_finished(&mut self) -> Result<(), WriteError> {
        while let Some(shard) = self.shards.get(self.shard) {
            match shard.tensors.get(self.tensor) {
                Some(tensor) if tensor.bytes() > self.written => return Ok(()),
                Some(_) => {
                    self.tensor += 1;
                    self.written = 0;
                }
                None => {
                    self.end_shard()?;
                    self.shard += 1;
                    self.tensor = 0;
                    self.begin_shard()?;
                }
            }
        }
        Ok(())
    }

    fn begin_shard(&mut self) -> Result<(), WriteError> {
        let Some(shard) = self.shards.get(self.shard) else {
            return Ok(());
        };
        let header = header(&shard.tensors);
        let path = self.folder.join(&shard.file);
        let file = File::create(&path).map_err(|source| WriteError::Io {
            file: path.display().to_string(),
            source,
        })?;
        self.out = Some(BufWriter::new(file));
        self.write(&(header.len() as u64).to_le_bytes())?;
        self.write(&header)
    }

    fn end_shard(&mut self) -> Result<(), WriteError> {
        match self.out.take() {
            None => Ok(()),
            Some(mut out) => out
                .flush()
                .and_then(|()| out.get_ref().sync_all())
                .map_err(|source| self.io(source)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        match self.out.as_mut().map(|out| out.write_all(bytes)) {
            Some(Err(source)) => Err(self.io(source)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn io(&self, source: std::io::Error) -> WriteError {
        let file = self
            .shards
            .get(self.shard)
            .map_or(SINGLE_FILE, |shard| &shard.file);
        WriteError::Io {
            file: self.folder.join(file).display().to_string(),
            source,
        }
    }
}

/// Tensors in shards, in order.
fn split(tensors: Vec<NewTensor>, shard_bytes: u64) -> Vec<Shard> {
    let mut groups: Vec<Vec<NewTensor>> = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in tensors {
        let last = groups.len() - 1;
        if !groups[last].is_empty() && bytes + tensor.bytes() > shard_bytes {
            bytes = tensor.bytes();
            groups.push(vec![tensor]);
        } else {
            bytes += tensor.bytes();
            groups[last].push(tensor);
        }
    }
    let count = groups.len();
    let file = |number: usize| match count {
        1 => SINGLE_FILE.to_owned(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    };
    groups
        .into_iter()
        .enumerate()
        .map(|(i, tensors)| Shard {
            file: file(i + 1),
            tensors,
        })
        .collect()
}

/// The header of a file, in the tensors' order.
fn header(tensors: &[NewTensor]) -> Vec<u8> {
    // What transformers expects of a file that it is to load.
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.bytes();
        let entry = json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end] });
        text.push_str(&format!(",{}:{entry}", Value::from(tensor.name.as_str())));
        begin = end;
    }
    text.push('}');
    while !(LENGTH_BYTES + text.len() as u64).is_multiple_of(ALIGNMENT) {
        text.push(' ');
    }
    text.into_bytes()
}

fn write_json(path: &Path, value: &Value) -> Result<(), WriteError> {
    // serde_json's maps are ordered by key, so the bytes do not depend on how the value was put together.
    write_file(path, format!("{value:#}\n").as_bytes())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    std::fs::write(path, bytes).map_err(|source| WriteError::Io {
        file: path.display().to_string(),
        source,
    })
}

/// Copies a model's tokenizer and generation settings, those that are there.
pub(crate) async fn copy_beside(from: &Folder, to: &Path) -> Result<(), CopyError> {
    for file in COPIED.into_iter().filter(|file| from.contains(file)) {
        let source: ByteSource = from.open(file)?;
        let bytes = source.read_all(MAX_COPIED_BYTES).await?;
        write_file(&to.join(file), &bytes)?;
    }
    Ok(())
}

/// Either side of a copy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}
