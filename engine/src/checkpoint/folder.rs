//! Where a model lives: a folder on disk, an entry of the Hugging Face cache, or the model built into the binary.

use super::{ByteSource, LoadError};
use std::path::{Path, PathBuf};

/// Longest `refs/main` that is read, in bytes: it holds a commit's name.
const LONGEST_REF: u64 = 256;

/// Of the built-in model, in messages.
const BUILTIN_NAME: &str = "builtin:demo-llama-16m";
/// The built-in model: quantized, in one shard. Its card is `engine/builtin/README.md`. Not a `const`, which every crate that uses it would have its
/// own copy of.
static BUILTIN_FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../builtin/config.json")),
    (
        "generation_config.json",
        include_bytes!("../../builtin/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../../builtin/model.safetensors"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../../builtin/tokenizer.json"),
    ),
    (
        "tokenizer_config.json",
        include_bytes!("../../builtin/tokenizer_config.json"),
    ),
];

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
        Self::Embedded {
            name: BUILTIN_NAME,
            files: &BUILTIN_FILES,
        }
    }

    /// `model` is the path of a folder, or `owner/name` in the local Hugging Face cache. Nothing is downloaded.
    pub fn resolve(model: &str) -> Result<Self, LoadError> {
        Self::resolve_in(model, hugging_face_cache().as_deref())
    }

    /// [`Folder::resolve`] with the cache's folder given.
    pub fn resolve_in(model: &str, cache: Option<&Path>) -> Result<Self, LoadError> {
        let path = Path::new(model);
        if path.is_dir() {
            return Ok(Self::Disk(path.to_owned()));
        }
        if path.exists() {
            return Err(LoadError::invalid(
                model,
                "model",
                "a file",
                "a folder in Hugging Face layout",
            ));
        }
        let Some((owner, name)) = model
            .split_once('/')
            .filter(|(owner, name)| is_file_name(owner) && is_file_name(name))
        else {
            return Err(LoadError::not_found(
                model,
                "no such folder, and not of the form owner/name",
            ));
        };
        let Some(cache) = cache else {
            return Err(LoadError::not_found(
                model,
                "no such folder, and no home folder to look for a Hugging Face cache in",
            ));
        };
        Self::snapshot(model, &cache.join(format!("models--{owner}--{name}")))
    }

    /// The snapshot that `refs/main` of a cache entry names.
    fn snapshot(model: &str, entry: &Path) -> Result<Self, LoadError> {
        if !entry.is_dir() {
            let searched = format!(
                "no such folder, and no {} in the Hugging Face cache",
                entry.display()
            );
            return Err(LoadError::not_found(model, searched));
        }
        let reference = entry.join("refs").join("main");
        let reference_name = reference.display().to_string();
        let too_long =
            std::fs::metadata(&reference).is_ok_and(|metadata| metadata.len() > LONGEST_REF);
        let revision = match std::fs::read(&reference) {
            Ok(_) if too_long => String::new(),
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(_) => return Err(LoadError::not_found(model, format!("no {reference_name}"))),
        };
        if !is_file_name(&revision) {
            return Err(LoadError::invalid(
                reference_name,
                "revision",
                format!("'{revision}'"),
                "the name of a snapshot",
            ));
        }
        let snapshot = entry.join("snapshots").join(revision);
        if !snapshot.is_dir() {
            return Err(LoadError::not_found(
                model,
                format!("no {}", snapshot.display()),
            ));
        }
        Ok(Self::Disk(snapshot))
    }

    /// For messages: the path, or the built-in model's name.
    pub fn name(&self) -> String {
        match self {
            Self::Disk(path) => path.display().to_string(),
            Self::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// For messages: a file of this folder.
    pub fn file_name(&self, file: &str) -> String {
        match self {
            Self::Disk(path) => path.join(file).display().to_string(),
            Self::Embedded { name, .. } => format!("{name}/{file}"),
        }
    }

    pub fn contains(&self, file: &str) -> bool {
        is_file_name(file)
            && match self {
                Self::Disk(path) => path.join(file).exists(),
                Self::Embedded { files, .. } => files.iter().any(|&(name, _)| name == file),
            }
    }

    /// Opens a file that lies directly in the folder. It may be a link (a snapshot's files are, into the cache's blobs), but
    /// `file` itself may not name a place elsewhere.
    pub fn open(&self, file: &str) -> Result<ByteSource, LoadError> {
        if !is_file_name(file) {
            return Err(LoadError::invalid(
                self.name(),
                "file name",
                format!("'{file}'"),
                "a file inside the folder",
            ));
        }
        if !self.contains(file) {
            return Err(LoadError::not_found(file, format!("in {}", self.name())));
        }
        match self {
            Self::Disk(path) => ByteSource::open(&path.join(file)),
            Self::Embedded { files, .. } => {
                let bytes = files
                    .iter()
                    .find(|&&(name, _)| name == file)
                    .map_or(&[][..], |&(_, bytes)| bytes);
                Ok(ByteSource::Memory {
                    name: self.file_name(file),
                    bytes,
                })
            }
        }
    }
}

/// Whether `name` is a plain name: no separator, no drive, no way up.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', ':'])
        && !name.contains(char::is_control)
}

/// Where Hugging Face's own programs keep downloaded models. The one place of the library that reads the environment: what
/// `owner/name` means is defined by these variables.
/// <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>
fn hugging_face_cache() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")))
        .or_else(|| {
            let home = variable("HOME").or_else(|| variable("USERPROFILE"))?;
            Some(home.join(".cache").join("huggingface").join("hub"))
        })
}
