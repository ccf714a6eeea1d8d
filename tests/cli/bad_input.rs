//! Broken models: one clear line with the file or tensor, and the documented exit code.

use crate::tiny::{self, Tensors};
use crate::{Ran, TinyModel, plateau};
use serde_json::{Value, json};
use std::path::Path;

const NOT_FOUND: i32 = 3;
const INVALID: i32 = 4;
const OUT_OF_MEMORY: i32 = 6;

/// Loads the model in `folder` and asks for one token.
fn generate(folder: &Path) -> Ran {
    plateau("generate --temp 0 -n 1 -q -p text -m")
        .arg(folder)
        .ran()
}

/// A tiny model after `spoil`: the exit code, and the words that the one line of the error has to hold.
fn refused(what: &str, code: i32, words: &[&str], spoil: impl FnOnce(&Path)) {
    let model = TinyModel::new();
    spoil(model.path());
    let ran = generate(model.path());
    ran.failed(code);
    for word in words {
        assert!(
            ran.stderr.contains(word),
            "{what}: '{word}' is not in: {}",
            ran.stderr
        );
    }
}

fn spoil_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let mut config = tiny::config();
    change(&mut config);
    tiny::write_json(&folder.join("config.json"), &config);
}

fn spoil_tensors(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = tiny::tensors();
    change(&mut tensors);
    tiny::write_tensors(&folder.join("model.safetensors"), &tensors);
}

fn spoil_bytes(folder: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join(file);
    let mut bytes = std::fs::read(&path).expect("the tiny model has it");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("the temporary folder can be written");
}

/// Changes the JSON header of `model.safetensors` and leaves the data alone.
fn spoil_header(folder: &Path, change: impl FnOnce(&mut Value)) {
    spoil_bytes(folder, "model.safetensors", |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header: Value =
            serde_json::from_slice(&bytes[8..8 + length]).expect("the header is JSON");
        change(&mut header);
        let header = header.to_string();
        let mut spoiled = (header.len() as u64).to_le_bytes().to_vec();
        spoiled.extend_from_slice(header.as_bytes());
        spoiled.extend_from_slice(&bytes[8 + length..]);
        *bytes = spoiled;
    });
}

#[test]
fn a_model_that_is_not_there() {
    plateau("generate -p text -m no/such/folder")
        .ran()
        .failed(NOT_FOUND);
    plateau("generate -p text -m nobody/no-such-model")
        .ran()
        .failed(NOT_FOUND);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        refused(file, NOT_FOUND, &[file], |folder| {
            std::fs::remove_file(folder.join(file)).expect("the tiny model has it");
        });
    }
}

#[test]
fn a_file_in_place_of_a_folder() {
    let model = TinyModel::new();
    generate(&model.path().join("config.json")).failed(INVALID);
}

#[test]
fn safetensors_that_are_cut_or_lie() {
    let file = "model.safetensors";
    let bytes = |what: &str, change: fn(&mut Vec<u8>)| {
        refused(what, INVALID, &[file], |folder| {
            spoil_bytes(folder, file, change)
        });
    };
    bytes("empty", Vec::clear);
    bytes("seven bytes", |bytes| bytes.truncate(7));
    bytes("cut in the header", |bytes| bytes.truncate(100));
    bytes("cut in the data", |bytes| bytes.truncate(bytes.len() - 1));
    bytes("longer than its tensors", |bytes| bytes.push(0));
    bytes("a header of 2^64 - 1 bytes", |bytes| bytes[..8].fill(0xff));
    bytes("a header of 2^40 bytes", |bytes| {
        bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes())
    });
    bytes("a header that is no JSON", |bytes| bytes[8] = b'[');

    let tensor = "model.norm.weight";
    let header = |what: &str, words: &[&str], change: fn(&mut Value)| {
        refused(what, INVALID, words, |folder| {
            spoil_header(folder, |header| change(&mut header["model.norm.weight"]))
        });
    };
    header("overlapping", &[file], |tensor| {
        tensor["data_offsets"] = json!([0, 96])
    });
    header("outside the file", &[tensor], |tensor| {
        tensor["data_offsets"] = json!([0, 1u64 << 60])
    });
    header("descending", &[tensor], |tensor| {
        tensor["data_offsets"] = json!([96, 0])
    });
    header("negative", &[tensor], |tensor| {
        tensor["shape"] = json!([-24])
    });
    header("a shape of 2^64 elements", &[tensor], |tensor| {
        tensor["shape"] = json!([1u64 << 32, 1u64 << 32])
    });
    header("a shape of other bytes", &[tensor], |tensor| {
        tensor["shape"] = json!([25])
    });
    header("another type", &[tensor, "I32"], |tensor| {
        tensor["dtype"] = json!("I32")
    });
    header("an unknown type", &[tensor], |tensor| {
        tensor["dtype"] = json!("F7")
    });
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let tensor = "model.layers.1.mlp.up_proj.weight";
    refused("missing", INVALID, &[tensor], |folder| {
        spoil_tensors(folder, |tensors| drop(tensors.remove(tensor)));
    });
    refused(
        "another shape",
        INVALID,
        &[tensor, "[24, 37]", "[37, 24]"],
        |folder| {
            spoil_tensors(folder, |tensors| {
                tensors.get_mut(tensor).expect("is there").0.reverse()
            });
        },
    );
    for (what, value) in [("NaN", f32::NAN), ("infinite", f32::INFINITY)] {
        refused(what, INVALID, &[tensor], |folder| {
            spoil_tensors(folder, |tensors| {
                tensors.get_mut(tensor).expect("is there").1[100] = value
            });
        });
    }
}

#[test]
fn shards_that_are_missing_or_elsewhere() {
    let index = |folder: &Path, shard: &str| {
        let names = tiny::tensors().into_keys();
        let map: serde_json::Map<String, Value> = names.map(|name| (name, json!(shard))).collect();
        tiny::write_json(
            &folder.join("model.safetensors.index.json"),
            &json!({ "weight_map": map }),
        );
        std::fs::rename(
            folder.join("model.safetensors"),
            folder.join("other.safetensors"),
        )
        .expect("is there");
    };
    let model = TinyModel::new();
    index(model.path(), "other.safetensors");
    generate(model.path()).succeeded();
    let shard = "model-00001-of-00001.safetensors";
    refused("a missing shard", NOT_FOUND, &[shard], |folder| {
        index(folder, shard)
    });
    for shard in ["../other.safetensors", "/etc/passwd", "", ".."] {
        refused(
            "outside",
            INVALID,
            &["model.safetensors.index.json"],
            |folder| index(folder, shard),
        );
    }
}

#[test]
fn configurations_without_sense() {
    let file = "config.json";
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-24)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!("24")),
        ("num_hidden_layers", json!(1u64 << 40)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(2)),
        ("head_dim", json!(7)),
        ("vocab_size", json!(1u64 << 50)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!("small")),
    ] {
        let what = format!("{field} {value}");
        refused(&what, INVALID, &[file, field], |folder| {
            spoil_config(folder, |config| config[field] = value)
        });
    }
    refused("not JSON", INVALID, &[file], |folder| {
        spoil_bytes(folder, file, |bytes| bytes.truncate(40))
    });
    refused("not text", INVALID, &[file], |folder| {
        spoil_bytes(folder, file, |bytes| bytes[0] = 0xff)
    });
}

#[test]
fn architectures_that_are_not_known() {
    refused(
        "another family",
        INVALID,
        &["mamba", "llama", "mistral", "qwen2", "qwen3"],
        |folder| {
            spoil_config(folder, |config| config["model_type"] = json!("mamba"));
        },
    );
}

#[test]
fn quantization_of_another_method_is_refused_by_name() {
    for method in ["gptq", "awq", "fp8", "bitsandbytes"] {
        refused(method, INVALID, &[method], |folder| {
            spoil_config(folder, |config| {
                config["quantization_config"] = json!({ "quant_method": method, "bits": 4 })
            });
        });
    }
}

#[test]
fn tokenizers_that_do_not_fit() {
    let file = "tokenizer.json";
    refused("broken", INVALID, &[file], |folder| {
        spoil_bytes(folder, file, |bytes| bytes.truncate(100))
    });
    refused("more tokens than rows", INVALID, &[file], |folder| {
        spoil_config(folder, |config| {
            config["vocab_size"] = json!(tiny::VOCAB - 3)
        });
        spoil_tensors(folder, |tensors| {
            let (shape, values) = tensors
                .get_mut("model.embed_tokens.weight")
                .expect("is there");
            values.truncate((shape[0] - 3) * shape[1]);
            shape[0] -= 3;
        });
    });
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_it_is_loaded() {
    let model = TinyModel::new();
    spoil_config(model.path(), |config| {
        config["num_hidden_layers"] = json!(1024);
        config["num_attention_heads"] = json!(512);
        config["num_key_value_heads"] = json!(512);
        config["head_dim"] = json!(256);
        config["max_position_embeddings"] = json!(1 << 24);
    });
    // A KV cache of 8 PB, of a shape that needs no weights.
    for device in ["0", "twin"] {
        let command = plateau(&format!("bench --device {device} -p 16000000 -n 0 --shape"));
        let ran = command.arg(model.path().join("config.json")).ran();
        ran.failed(OUT_OF_MEMORY);
        assert!(
            ran.stderr.contains("bytes of device memory"),
            "{device}: {}",
            ran.stderr
        );
    }
}
