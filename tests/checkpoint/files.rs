//! A tiny model on disk that a test can spoil.

use plateau::checkpoint::{Checkpoint, Folder, LoadError, LoadErrorKind};
use plateau_tests::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// One tensor of a safetensors file.
#[derive(Clone)]
pub struct RawTensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

pub fn f32_tensor(shape: &[u64], values: &[f32]) -> RawTensor {
    let data = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    RawTensor {
        dtype: "F32".to_owned(),
        shape: shape.to_vec(),
        data,
    }
}

/// The tensors of a safetensors file, as the official crate reads them.
pub fn raw_tensors(file: &[u8]) -> BTreeMap<String, RawTensor> {
    let old = safetensors::SafeTensors::deserialize(file).expect("valid");
    let raw = |view: safetensors::tensor::TensorView<'_>| RawTensor {
        dtype: format!("{:?}", view.dtype()),
        shape: view.shape().iter().map(|&size| size as u64).collect(),
        data: view.data().to_vec(),
    };
    let tensors = old.tensors().into_iter();
    tensors.map(|(name, view)| (name, raw(view))).collect()
}

/// A model's files before they are written.
#[derive(Clone)]
pub struct Model {
    pub config: Value,
    pub tensors: BTreeMap<String, RawTensor>,
    pub tokenizer: Option<String>,
}

pub const HIDDEN: u64 = 20;
pub const VOCAB: u64 = 13;

/// Two layers of odd sizes with random weights, untied, with every bias that Llama can have.
pub fn tiny() -> Model {
    let config = json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 70,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "attention_bias": true,
        "mlp_bias": true,
        "tie_word_embeddings": false,
        "eos_token_id": 2,
    });
    let mut rng = Rng::new(7);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, shape: &[u64]| {
        let len: u64 = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|_| rng.unit()).collect();
        tensors.insert(name, f32_tensor(shape, &values));
    };
    add("model.embed_tokens.weight".to_owned(), &[VOCAB, HIDDEN]);
    add("lm_head.weight".to_owned(), &[VOCAB, HIDDEN]);
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    for layer in 0..2 {
        let layer = format!("model.layers.{layer}");
        add(format!("{layer}.input_layernorm.weight"), &[HIDDEN]);
        add(
            format!("{layer}.post_attention_layernorm.weight"),
            &[HIDDEN],
        );
        let linears = [
            ("self_attn.q_proj", 24, HIDDEN),
            ("self_attn.k_proj", 12, HIDDEN),
            ("self_attn.v_proj", 12, HIDDEN),
            ("self_attn.o_proj", HIDDEN, 24),
            ("mlp.gate_proj", 70, HIDDEN),
            ("mlp.up_proj", 70, HIDDEN),
            ("mlp.down_proj", HIDDEN, 70),
        ];
        for (name, out_features, in_features) in linears {
            add(
                format!("{layer}.{name}.weight"),
                &[out_features, in_features],
            );
            add(format!("{layer}.{name}.bias"), &[out_features]);
        }
    }
    Model {
        config,
        tensors,
        tokenizer: Some(byte_level_tokenizer(&[])),
    }
}

impl Model {
    pub fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors
            .get_mut(name)
            .unwrap_or_else(|| panic!("the tiny model has {name}"))
    }

    /// Everything in a fresh folder, with one `model.safetensors`.
    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        self.write_beside_weights(folder.path());
        write(
            folder.path(),
            "model.safetensors",
            &safetensors(&self.tensors),
        );
        folder
    }

    /// The same with two shards and their index, which the caller may change first.
    pub fn write_shards(&self, change: impl FnOnce(&mut Value)) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        self.write_beside_weights(folder.path());
        let mut weight_map = BTreeMap::new();
        let mut shards = [BTreeMap::new(), BTreeMap::new()];
        for (i, (name, tensor)) in self.tensors.iter().enumerate() {
            weight_map.insert(name.clone(), shard_name(i % 2));
            shards[i % 2].insert(name.clone(), tensor.clone());
        }
        for (i, shard) in shards.iter().enumerate() {
            write(folder.path(), &shard_name(i), &safetensors(shard));
        }
        let mut index = json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
        change(&mut index);
        write(
            folder.path(),
            "model.safetensors.index.json",
            index.to_string().as_bytes(),
        );
        folder
    }

    fn write_beside_weights(&self, folder: &Path) {
        write(folder, "config.json", self.config.to_string().as_bytes());
        if let Some(tokenizer) = &self.tokenizer {
            write(folder, "tokenizer.json", tokenizer.as_bytes());
        }
    }
}

pub fn shard_name(shard: usize) -> String {
    format!("model-0000{}-of-00002.safetensors", shard + 1)
}

pub fn write(folder: &Path, file: &str, bytes: &[u8]) {
    std::fs::write(folder.join(file), bytes).expect("a file in a temporary folder");
}

/// A well-formed file.
pub fn safetensors(tensors: &BTreeMap<String, RawTensor>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.data);
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A file of that header, right or wrong.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

pub fn open(folder: &Path) -> Result<Checkpoint, LoadError> {
    pollster::block_on(Checkpoint::open(Folder::Disk(folder.to_owned())))
}

/// The result is an error of that kind whose message is one line with all of `parts`.
#[track_caller]
pub fn assert_refused<T>(result: Result<T, LoadError>, kind: LoadErrorKind, parts: &[&str]) {
    let Err(error) = result else {
        panic!("expected an error with {parts:?}")
    };
    assert_message(&error, parts);
    assert_eq!(error.kind(), kind, "{error}");
}

#[track_caller]
pub fn assert_message(error: &impl std::error::Error, parts: &[&str]) {
    let message = error.to_string();
    assert!(
        !message.contains(char::is_control),
        "not one line: {message:?}"
    );
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// The bytes as GPT-2's byte-level BPE writes them: printable ones as themselves, the others as characters from 256 on.
pub fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).expect("below 512")
    })
}

/// A byte-level BPE tokenizer of the given words; ids in their order. (The words as bytes are, in [`byte_characters`].)
pub fn byte_level_tokenizer(words: &[String]) -> String {
    let default: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let words = if words.is_empty() { &default } else { words };
    let vocab: BTreeMap<&String, usize> = words
        .iter()
        .enumerate()
        .map(|(id, word)| (word, id))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
    .to_string()
}
