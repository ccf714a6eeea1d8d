//! A tiny model with random weights, written on the spot: 2 layers, odd sizes, one token for each byte of a text.

use plateau_tests::Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub const CONTEXT: u32 = 64;
/// `<pad>`, `<s>`, `</s>`, then the bytes.
pub const BYTE_0: u32 = 3;
pub const BOS: u32 = 1;
/// Two rows more than there are tokens: tables are often padded.
pub const VOCAB: usize = 261;
const HIDDEN: usize = 24;
const INTERMEDIATE: usize = 37;
const LAYERS: usize = 2;
const HEADS: usize = 3;
const KV_HEADS: usize = 1;
const HEAD_DIM: usize = 8;
const SEED: u64 = 1;

/// The ids of a text of ASCII, without `<s>`.
pub fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| BYTE_0 + u32::from(byte)).collect()
}

/// Writes the whole folder.
pub fn write(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the temporary folder can be written");
    write_json(&folder.join("config.json"), &config());
    write_json(
        &folder.join("generation_config.json"),
        &json!({ "bos_token_id": BOS, "eos_token_id": [2], "pad_token_id": 0 }),
    );
    write_json(&folder.join("tokenizer.json"), &tokenizer());
    write_tensors(&folder.join("model.safetensors"), &tensors());
}

pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("the temporary folder can be written");
}

pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "bos_token_id": BOS,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    })
}

/// Byte-level BPE without merges: GPT-2's letters for the bytes, each a token.
fn tokenizer() -> Value {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        })
    };
    let mut vocab: BTreeMap<String, u32> = BTreeMap::new();
    for (id, name) in ["<pad>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(name.to_owned(), id as u32);
    }
    for (byte, letter) in byte_letters().into_iter().enumerate() {
        vocab.insert(letter.to_string(), BYTE_0 + byte as u32);
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [BOS], "tokens": ["<s>"] } }
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []
        }
    })
}

/// GPT-2's letters: printable bytes stand for themselves, the others for the letters from U+0100 on.
fn byte_letters() -> Vec<char> {
    let mut other = 0x100..;
    let letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => other
            .next()
            .and_then(char::from_u32)
            .expect("there are letters enough"),
    };
    (0..=255).map(letter).collect()
}

/// Shape and values by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn tensors() -> Tensors {
    let mut rng = Rng::new(SEED);
    let mut tensors = Tensors::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        let scale = 2.0 / (columns as f32).sqrt();
        tensors.insert(
            name,
            (vec![rows, columns], rng.floats(rows * columns, scale)),
        );
    };
    matrix("model.embed_tokens.weight".to_owned(), VOCAB, HIDDEN);
    for layer in 0..LAYERS {
        let linear = |name: &str| format!("model.layers.{layer}.{name}.weight");
        matrix(linear("self_attn.q_proj"), HEADS * HEAD_DIM, HIDDEN);
        matrix(linear("self_attn.k_proj"), KV_HEADS * HEAD_DIM, HIDDEN);
        matrix(linear("self_attn.v_proj"), KV_HEADS * HEAD_DIM, HIDDEN);
        matrix(linear("self_attn.o_proj"), HIDDEN, HEADS * HEAD_DIM);
        matrix(linear("mlp.gate_proj"), INTERMEDIATE, HIDDEN);
        matrix(linear("mlp.up_proj"), INTERMEDIATE, HIDDEN);
        matrix(linear("mlp.down_proj"), HIDDEN, INTERMEDIATE);
    }
    for norm in ["model.norm".to_owned()]
        .into_iter()
        .chain((0..LAYERS).flat_map(|layer| {
            ["input_layernorm", "post_attention_layernorm"]
                .map(|name| format!("model.layers.{layer}.{name}"))
        }))
    {
        tensors.insert(format!("{norm}.weight"), (vec![HIDDEN], vec![1.0; HIDDEN]));
    }
    tensors
}

pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| {
            (
                name.as_str(),
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            )
        })
        .collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()]);
        (name.as_str(), view.expect("shape and values agree"))
    });
    let file = safetensors::serialize(views, None).expect("the tensors are valid");
    std::fs::write(path, file).expect("the temporary folder can be written");
}
