//! Checks against the real models of `shared/`, where it lies beside the workspace.

use crate::files::open;
use plateau::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, Folder};
use plateau::exec::Executor;
use plateau::quantize::{Recipe, Source, quantize};
use plateau::tokenizer::Tokenizer;
use pollster::block_on;
use serde_json::Value;
use std::path::{Path, PathBuf};

const MODELS: [&str; 4] = [
    "babyllama-0.9m",
    "demo-llama-16m",
    "demo-opt-17m",
    "stories260k",
];

/// The folder of a model; `None`, with a line that says so, where there is no such folder.
fn model(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/models")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: {name} is checked where {} exists", path.display());
    None
}

fn reference(model: &Path) -> Value {
    let text = std::fs::read_to_string(model.join("reference/reference.json"))
        .expect("a reference beside the model");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

#[test]
fn every_weight_is_there_and_finite() {
    for folder in MODELS.into_iter().filter_map(model) {
        let checkpoint = open(&folder).expect("valid");
        assert!(
            checkpoint.config.tie_word_embeddings
                && !checkpoint.generation.eos_token_ids.is_empty()
        );
        let mut elements = 0;
        for (name, info) in &checkpoint.tensors {
            let values =
                block_on(checkpoint.read_f32(name, 0, info.elements() as usize)).expect("finite");
            assert!(values.iter().any(|&value| value != 0.0), "{name}");
            elements += values.len();
        }
        let floats: u64 = checkpoint
            .config
            .linears()
            .iter()
            .map(|l| u64::from(l.in_features) * u64::from(l.out_features))
            .sum();
        assert!(elements as u64 > floats);
    }
}

#[test]
fn ids_are_those_of_the_references() {
    for folder in MODELS.into_iter().filter_map(model) {
        let reference = reference(&folder);
        let tokenizer = block_on(Tokenizer::load(&Folder::Disk(folder.clone()))).expect("valid");
        let prompt = reference["prompt_text"].as_str().expect("a prompt");
        let prompt_ids = ids(&reference["prompt_ids"]);
        assert_eq!(
            tokenizer.encode(prompt, true).expect("encoded"),
            prompt_ids,
            "{}",
            folder.display()
        );

        let greedy = [&prompt_ids[..], &ids(&reference["greedy_new_ids"])].concat();
        let text = tokenizer.decode(&greedy).expect("decoded");
        if let Some(expected) = reference["greedy_text"].as_str() {
            assert!(
                text.contains(expected.trim()) || expected.contains(text.trim()),
                "{text}"
            );
        }
        let mut stream = tokenizer.stream();
        let mut streamed: String = greedy
            .iter()
            .map(|&id| stream.push(id).expect("decoded"))
            .collect();
        streamed.push_str(&stream.finish().expect("decoded"));
        assert_eq!(streamed, text);
    }
}

#[test]
fn the_builtin_model_is_what_its_recipe_makes_of_the_demo_model() {
    let Some(folder) = model("demo-llama-16m") else {
        return;
    };
    let float = open(&folder).expect("valid");
    let builtin = block_on(Checkpoint::open(Folder::builtin())).expect("valid");
    assert_eq!(builtin.config, float.config);
    let quantization = builtin.quantization.as_ref().expect("quantized");
    let out = tempfile::tempdir().expect("a temporary folder");
    let recipe = Recipe::named(&quantization.recipe).expect("a recipe");
    let source = Source {
        checkpoint: &float,
        samples: None,
        outliers: None,
    };
    let mut twin = Executor::twin();
    block_on(quantize(
        &source,
        &mut twin,
        &recipe,
        out.path(),
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
    .expect("quantized");
    let Folder::Embedded { files, .. } = Folder::builtin() else {
        panic!("it is in the binary")
    };
    for (name, bytes) in files {
        let made = std::fs::read(out.path().join(name)).expect("written");
        assert!(
            made == *bytes,
            "{name} differs: cargo xtask builtin-model remakes it"
        );
    }
}
