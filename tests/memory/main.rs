//! Loading needs host memory for some chunks of weights, not for the model.
//!
//! What is counted is Rust's heap, by an allocator of this binary's own: hence one test. Uploads on their way are not in it:
//! wgpu keeps them in memory of the driver, and the executor bounds them by submitting every 64 MiB.

use plateau::session::LoadOptions;
use plateau::tensor::Quant;
use plateau_tests::{Rng, device, model};
use serde_json::{Map, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with the bytes in use and their peak.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(in_use, Ordering::Relaxed);
}

fn shrink(bytes: usize) {
    IN_USE.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both are there while the contents move.
        grow(new_size);
        shrink(layout.size());
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 2816;
const LAYERS: usize = 7;
const VOCAB: usize = 8192;
const SEED: u64 = 11;

/// Names and shapes in the order of the file.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((
                format!("model.layers.{layer}.{name}.weight"),
                shape.to_vec(),
            ));
        };
        add("input_layernorm", &[HIDDEN]);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[HIDDEN, HIDDEN]);
        }
        add("post_attention_layernorm", &[HIDDEN]);
        add("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors
}

/// Writes a float model of about 200 MB in halves; gives the size of its weights.
fn write_model(folder: &Path) -> std::io::Result<usize> {
    let config = json!({
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": VOCAB,
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
    for (name, shape) in tensors() {
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
    pollster::block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = write_model(folder.path()).expect("the temporary folder can be written");
        assert!(bytes > 4 * BOUND, "the model has {bytes} bytes only");
        let checkpoint = model::open(folder.path()).await;
        for quant in [Quant::F16, Quant::W4A8] {
            for gpu in device::portable_devices().await {
                let name = gpu.name().to_owned();
                let options = LoadOptions {
                    quant: Some(quant),
                    ..LoadOptions::default()
                };
                let before = IN_USE.load(Ordering::Relaxed);
                PEAK.store(before, Ordering::Relaxed);
                let mut session = model::load(&checkpoint, gpu, &options).await;
                let growth = PEAK.load(Ordering::Relaxed) - before;
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
                        && logits[..VOCAB] != logits[VOCAB..],
                    "{quant} on {name}: not a model's logits"
                );
            }
        }
    });
}
