//! Loading needs host memory for some chunks of weights, not for the model; quantizing for one layer, not for all.
//!
//! What is counted is Rust's heap, by an allocator of this binary's own: hence one test at a time. Uploads on their way are not in it:
//! wgpu keeps them in memory of the driver, and the executor bounds them by submitting every 64 MiB.

use plateau::exec::Executor;
use plateau::quantize::calibrate::Samples;
use plateau::quantize::gptq::{Factor, GptqConfig, Hessian};
use plateau::quantize::{Recipe, Source, quantize};
use plateau::session::LoadOptions;
use plateau::tensor::Quant;
use plateau_tests::heap::{self, Counting};
use plateau_tests::{Rng, device, model};
use serde_json::{Map, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts.
static COUNTED: Mutex<()> = Mutex::new(());

const SEED: u64 = 11;

/// Of a float model.
struct Shape {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    vocab: usize,
}

/// Names and shapes in the order of the file.
fn tensors(shape: &Shape) -> Vec<(String, Vec<usize>)> {
    let &Shape {
        hidden,
        intermediate,
        vocab,
        ..
    } = shape;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..shape.layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((
                format!("model.layers.{layer}.{name}.weight"),
                shape.to_vec(),
            ));
        };
        add("input_layernorm", &[hidden]);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[hidden, hidden]);
        }
        add("post_attention_layernorm", &[hidden]);
        add("mlp.gate_proj", &[intermediate, hidden]);
        add("mlp.up_proj", &[intermediate, hidden]);
        add("mlp.down_proj", &[hidden, intermediate]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors
}

/// Writes a float model in halves; gives the size of its weights.
fn write_model(folder: &Path, shape: &Shape) -> std::io::Result<usize> {
    let config = json!({
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden / 64,
        "num_key_value_heads": shape.hidden / 64,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "torch_dtype": "float16",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors(shape) {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // A prime number of them, repeated: rows differ. A plausible size: outputs are about as large as inputs.
    let block: Vec<u8> = Rng::new(SEED)
        .floats(65_537, 0.05)
        .into_iter()
        .flat_map(|value| half::f16::from_f32(value).to_le_bytes())
        .collect();
    let mut left = end;
    while left > 0 {
        let part = left.min(block.len());
        file.write_all(&block[..part])?;
        left -= part;
    }
    file.flush()?;
    Ok(end)
}

#[test]
fn loading_takes_some_chunks_of_host_memory_and_not_the_model() {
    /// Four chunks of 8 MiB: one as bytes of the file, as floats, as packed rows and as joined words. Measured 17.7 MiB in f16
    /// and 12.3 MiB in w4a8; the rest is room for headers, wgpu's objects and another driver's.
    const BOUND: usize = 32 << 20;
    /// About 200 MB.
    const SHAPE: Shape = Shape {
        hidden: 1024,
        intermediate: 2816,
        layers: 7,
        vocab: 8192,
    };
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    pollster::block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes =
            write_model(folder.path(), &SHAPE).expect("the temporary folder can be written");
        assert!(bytes > 4 * BOUND, "the model has {bytes} bytes only");
        let checkpoint = model::open(folder.path()).await;
        for quant in [Quant::F16, Quant::W4A8] {
            for gpu in device::portable_devices().await {
                let name = gpu.name().to_owned();
                let options = LoadOptions {
                    quant: Some(quant),
                    ..LoadOptions::default()
                };
                let before = heap::in_use();
                heap::forget_peak();
                let mut session = model::load(&checkpoint, gpu, &options).await;
                let growth = heap::peak() - before;
                println!(
                    "{quant} on {name}: {:.1} MiB of heap for {:.1} MiB of weights",
                    growth as f64 / f64::from(1 << 20),
                    bytes as f64 / f64::from(1 << 20)
                );
                assert!(
                    growth < BOUND,
                    "{quant} on {name}: {growth} bytes of heap, at most {BOUND} were expected"
                );
                // What was loaded is a model.
                let logits = model::logits(&mut session, &[3, 1], None).await;
                assert!(
                    logits.iter().all(|logit| logit.is_finite())
                        && logits[..SHAPE.vocab] != logits[SHAPE.vocab..],
                    "{quant} on {name}: not a model's logits"
                );
            }
        }
    });
}

#[test]
fn a_hessian_and_its_factor_take_four_bytes_for_each_pair_of_features() {
    const FEATURES: usize = 1024;
    /// Whole panels of 32 columns, where the triangle has half of each square on its diagonal; and some vectors of features.
    const ROOM: usize = 8 * FEATURES * 16 + (64 << 10);
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let before = heap::in_use();
    let mut hessian = Hessian::new(FEATURES);
    let diagonal: Vec<u32> = (0..FEATURES * FEATURES)
        .map(|at| u32::from(at % (FEATURES + 1) == 0))
        .collect();
    hessian.add_upper_rows(0, FEATURES, &diagonal, f64::from);
    drop(diagonal);
    let one = heap::in_use() - before;
    let factor = Factor::new(&hessian, GptqConfig::default()).expect("the identity has a factor");
    let both = heap::in_use() - before;
    assert_eq!(factor.features(), FEATURES);
    println!("{one} bytes of heap for a Hessian, {both} with its factor");
    for (found, matrices) in [(one, 1), (both, 2)] {
        let bound = matrices * (4 * FEATURES * FEATURES + ROOM);
        assert!(
            found <= bound,
            "{found} bytes for {matrices}, at most {bound}"
        );
    }
}

#[test]
fn quantizing_takes_the_memory_of_a_layer_whatever_the_depth() {
    /// Of plans and names. A layer's weights in f32 are 3.2 MiB, and what GPTQ makes of them another MiB.
    const PER_LAYER: usize = 100 << 10;
    let _counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let peak_with = async |layers: usize| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shape = Shape {
            hidden: 256,
            intermediate: 704,
            layers,
            vocab: 512,
        };
        write_model(folder.path(), &shape).expect("the temporary folder can be written");
        let checkpoint = model::open(folder.path()).await;
        let ids: Vec<u32> = (0..4 * 32).map(|id| id * 7 % 512).collect();
        let samples = Samples::new(&ids, Some(1), 32, 4, 0).expect("enough tokens");
        let recipe = Recipe::named("flattenquant-w4a8").expect("a recipe");
        let source = Source {
            checkpoint: &checkpoint,
            samples: Some(&samples),
            outliers: None,
        };
        let mut twin = Executor::twin();
        let before = heap::in_use();
        heap::forget_peak();
        let out = folder.path().join("out");
        quantize(&source, &mut twin, &recipe, &out, u64::MAX, &mut |_| {})
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        heap::peak() - before
    };
    pollster::block_on(async {
        let (few, many) = (peak_with(2).await, peak_with(5).await);
        println!("{few} bytes of heap with 2 layers, {many} with 5");
        assert!(
            many < few + 3 * PER_LAYER,
            "{many} bytes of heap with 5 layers, {few} with 2"
        );
    });
}
