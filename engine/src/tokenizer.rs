//! Text to token ids and back, through the `tokenizers` crate.

use crate::checkpoint::{Folder, LoadError};

/// A model's `tokenizer.json`.
pub struct Tokenizer {}

impl Tokenizer {
    pub async fn load(_folder: &Folder) -> Result<Self, LoadError> {
        unimplemented!("tokenizer")
    }

    /// Number of ids, added ones included.
    pub fn vocab_size(&self) -> u32 {
        unimplemented!("tokenizer")
    }

    /// `special`: whether the post-processor may add tokens such as `<s>`.
    pub fn encode(&self, _text: &str, _special: bool) -> Result<Vec<u32>, LoadError> {
        unimplemented!("tokenizer")
    }

    pub fn decode(&self, _ids: &[u32]) -> Result<String, LoadError> {
        unimplemented!("tokenizer")
    }

    /// Decodes one id after another.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self }
    }
}

/// Gives text as soon as it is whole UTF-8.
pub struct TextStream<'a> {
    #[expect(dead_code, reason = "stub")]
    tokenizer: &'a Tokenizer,
}

impl TextStream<'_> {
    /// The text that `id` completes, if any.
    pub fn push(&mut self, _id: u32) -> Result<String, LoadError> {
        unimplemented!("tokenizer")
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Result<String, LoadError> {
        unimplemented!("tokenizer")
    }
}
