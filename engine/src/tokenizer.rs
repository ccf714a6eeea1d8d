//! Text to token ids and back, through the `tokenizers` crate.

use crate::checkpoint::{Folder, LoadError, ModelConfig};
use serde_json::Value;
use tokenizers::Tokenizer as Inner;

const FILE: &str = "tokenizer.json";
/// Longest `tokenizer.json` that is read, in bytes: several times the largest known.
const MAX_TOKENIZER_BYTES: u64 = 1 << 28;
/// What decoders put for bytes that are not UTF-8, or not yet.
const REPLACEMENT: char = '\u{fffd}';

/// A model's `tokenizer.json`.
pub struct Tokenizer {
    inner: Inner,
    /// For messages.
    file: String,
    vocab_size: u32,
}

impl Tokenizer {
    pub async fn load(folder: &Folder) -> Result<Self, LoadError> {
        let source = folder.open(FILE)?;
        let file = source.name().to_owned();
        let bytes = source.read_all(MAX_TOKENIZER_BYTES).await?;
        let broken = |error: String| {
            LoadError::invalid(
                &file,
                "tokenizer",
                error,
                "a tokenizer of Hugging Face's format",
            )
        };
        // The crate panics on some parts that are not JSON, so it only sees what is; and on templates that do not add up.
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        check_templates(&json["post_processor"]).map_err(broken)?;
        drop(json);
        let mut inner = Inner::from_bytes(bytes).map_err(|error| broken(error.to_string()))?;
        // Settings for batches of training. Cut off here, a text would lose its end in silence.
        inner
            .with_truncation(None)
            .map_err(|error| broken(error.to_string()))?;
        inner.with_padding(None);
        // Ids may have gaps, so the largest counts and not how many there are.
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = match largest.map(|id| id.checked_add(1)) {
            Some(Some(size)) => size,
            Some(None) => return Err(broken(format!("token id {}", u32::MAX))),
            None => return Err(broken("no tokens".to_owned())),
        };
        Ok(Self {
            inner,
            file,
            vocab_size,
        })
    }

    /// Number of ids, added ones included: the largest id and one.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// An error when the tokenizer makes ids that the model's embedding does not have. (Fewer is common: tables are padded.)
    pub fn check_vocab(&self, config: &ModelConfig) -> Result<(), LoadError> {
        if self.vocab_size <= config.vocab_size {
            return Ok(());
        }
        let expected = format!(
            "at most {}, the rows of {} (vocab_size of config.json)",
            config.vocab_size,
            config.tables()[0]
        );
        Err(LoadError::invalid(
            &self.file,
            "number of token ids",
            self.vocab_size,
            expected,
        ))
    }

    /// `special`: whether the post-processor may add tokens such as `<s>`.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, LoadError> {
        let encoding = self
            .inner
            .encode_fast(text, special)
            .map_err(|error| self.failed("encoding", &error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without the special ones.
    pub fn decode(&self, ids: &[u32]) -> Result<String, LoadError> {
        self.inner
            .decode(ids, true)
            .map_err(|error| self.failed("decoding", &error))
    }

    /// Decodes one id after another.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            given: String::new(),
            settled: 0,
        }
    }

    fn failed(&self, what: &str, error: &tokenizers::Error) -> LoadError {
        LoadError::invalid(&self.file, what, error, "success")
    }
}

/// Whether the templates of a post-processor name only what is there when one text is encoded; if not, the first that does not.
fn check_templates(post_processor: &Value) -> Result<(), String> {
    if let Some(processors) = post_processor["processors"].as_array() {
        processors.iter().try_for_each(check_templates)?;
    }
    for piece in post_processor["single"].as_array().into_iter().flatten() {
        match piece["SpecialToken"]["id"].as_str() {
            Some(id) if post_processor["special_tokens"].get(id).is_none() => {
                return Err(format!(
                    "special token '{id}' in a template and not among its special_tokens"
                ));
            }
            _ => {}
        }
        if piece["Sequence"]["id"] == "B" {
            return Err("a second text in the template for one".to_owned());
        }
    }
    Ok(())
}

/// Gives text as soon as it is whole UTF-8. What the pushes and [`TextStream::finish`] give, joined, is what
/// [`Tokenizer::decode`] gives for all ids at once. (One exception: a decoder with byte fallback that meets bytes that are not
/// UTF-8 takes back the whole characters just before them; the stream has given those, and keeps them.)
///
/// An id's text depends on where it stands: decoders take a space off the first one, and a character may have its bytes in
/// several. So a window of ids is decoded again at each push, and its text compared with what was given.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last ids.
    ids: Vec<u32>,
    /// How the text of `ids` begins that was given already.
    given: String,
    /// How many of `ids` were all text when they were last decoded, nothing withheld.
    settled: usize,
}

/// The window shrinks when it is longer than this, to [`KEPT`] ids.
const LONGEST_WINDOW: usize = 32;
const KEPT: usize = 8;
/// Ids without whole text after which there is no use in waiting: a character has at most four bytes.
const MOST_WITHHELD: usize = 64;

impl TextStream<'_> {
    /// The text that `id` completes, if any.
    pub fn push(&mut self, id: u32) -> Result<String, LoadError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        let whole = text.trim_end_matches(REPLACEMENT).len();
        if whole == text.len() || self.ids.len() - self.settled > MOST_WITHHELD {
            let new = self.give(text)?;
            self.settled = self.ids.len();
            self.shrink()?;
            Ok(new)
        } else if whole > self.given.len() && text.starts_with(&self.given) {
            let new = text[self.given.len()..whole].to_owned();
            self.given.push_str(&new);
            Ok(new)
        } else {
            Ok(String::new())
        }
    }

    /// What is left at the end: bytes that never became a character, as U+FFFD.
    pub fn finish(&mut self) -> Result<String, LoadError> {
        let text = self.tokenizer.decode(&self.ids)?;
        let new = self.give(text)?;
        self.settled = self.ids.len();
        Ok(new)
    }

    /// What of the window's text is new.
    fn give(&mut self, text: String) -> Result<String, LoadError> {
        let new = match text.strip_prefix(&self.given) {
            Some(new) => new.to_owned(),
            // The decoder changed its mind about characters that were given: go on after them.
            None => {
                self.ids.drain(..self.settled);
                let text = self.tokenizer.decode(&self.ids)?;
                self.given.clone_from(&text);
                return Ok(text);
            }
        };
        self.given = text;
        Ok(new)
    }

    /// Forgets the oldest ids, where what remains decodes to the same text as before at its end.
    fn shrink(&mut self) -> Result<(), LoadError> {
        if self.ids.len() <= LONGEST_WINDOW {
            return Ok(());
        }
        let first = self.ids.len() - KEPT;
        let tail = self.tokenizer.decode(&self.ids[first..])?;
        // Not empty: then the space that a decoder takes off the first id's text is gone, and the next id keeps its own.
        if !tail.is_empty() && self.given.ends_with(&tail) {
            self.ids.drain(..first);
            self.settled = self.ids.len();
            self.given = tail;
        }
        Ok(())
    }
}
