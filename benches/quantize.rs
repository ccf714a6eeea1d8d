//! What quantizing a large model takes: `cargo bench -p plateau-benches --bench quantize -- [SHAPE] [key=value…]`.
//!
//! Writes a float model of random weights into a temporary folder, some of the layers of SHAPE (small, tinyllama-1.1b, llama2-7b),
//! quantizes it, and prints the time of a layer, the most memory that the process had, and what the whole shape would take on a
//! device beside FP16. Keys: layers=2 windows=4 tokens=64 recipe=flattenquant-w4a8 device=auto added-int4=… added-int8=…
//! added-down=… dry=no (only the first pass, after which all sizes are known).
//!
//! Random weights say nothing of quality. They use all channels that a recipe may add.

use half::f16;
use plateau::checkpoint::{Checkpoint, CheckpointWriter, Dtype, Folder, ModelConfig, NewTensor};
use plateau::exec;
use plateau::model::{Capacity, LinearSpec, Model, Part, StepShape, WeightsConfig};
use plateau::ops::{Input, WeightFormat};
use plateau::quantize::calibrate::Samples;
use plateau::quantize::pipeline::{LayerPlan, decide, write};
use plateau::quantize::report::{peak_memory, totals};
use plateau::quantize::{Progress, Recipe, Source};
use plateau::tensor::{Bits, KvType};
use plateau_tests::Rng;
use plateau_tests::heap::{self, Counting};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

#[global_allocator]
static HEAP: Counting = Counting;

const BOS: u32 = 1;
/// Of the device's budget: one sequence, prompts in steps of 512 tokens.
const CONTEXT: u32 = 2048;
const ROWS: u32 = 512;
/// A weight's standard deviation is about this over the square root of its inputs.
const GAIN: f32 = 1.0;
const CHUNK: usize = 1 << 20;

fn shape(name: &str) -> Option<Value> {
    let [hidden, mlp, layers, heads, kv_heads, vocab] = match name {
        "small" => [256, 688, 4, 4, 4, 1000],
        "tinyllama-1.1b" => [2048, 5632, 22, 32, 4, 32000],
        "llama2-7b" => [4096, 11008, 32, 32, 32, 32000],
        _ => return None,
    };
    Some(json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float16",
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": BOS, "eos_token_id": 2,
    }))
}

fn main() {
    // Cargo says --bench.
    let words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"));
    let (pairs, names): (Vec<String>, Vec<String>) = words.partition(|word| word.contains('='));
    let keys: BTreeMap<&str, &str> = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let name = names.first().map_or("small", String::as_str);
    pollster::block_on(run(name, &keys));
}

async fn run(name: &str, keys: &BTreeMap<&str, &str>) {
    let text = |key: &str, default: &'static str| keys.get(key).copied().unwrap_or(default);
    let full = shape(name).unwrap_or_else(|| panic!("'{name}' is none of the shapes"));
    let mut json = full.clone();
    json["num_hidden_layers"] = json!(number(keys, "layers", 2));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (float, out) = (folder.path().join("float"), folder.path().join("out"));
    write_random(&float, &json);

    let checkpoint = Checkpoint::open(Folder::Disk(float))
        .await
        .expect("a checkpoint");
    let recipe_name = text("recipe", "flattenquant-w4a8");
    let mut recipe = Recipe::named(recipe_name).expect("the name of a recipe");
    recipe.added_int4 = number(keys, "added-int4", recipe.added_int4);
    recipe.added_int8 = number(keys, "added-int8", recipe.added_int8);
    recipe.added_down = number(keys, "added-down", recipe.added_down);
    let (windows, tokens) = (number(keys, "windows", 4), number(keys, "tokens", 64));
    let mut rng = Rng::new(2);
    let ids: Vec<u32> = (0..windows * tokens)
        .map(|_| rng.below(checkpoint.config.vocab_size))
        .collect();
    let samples = Samples::new(&ids, Some(BOS), tokens, windows, 0).expect("enough tokens");
    let device = text("device", "auto").parse().expect("a device");
    let mut opened = exec::open(&device).await.expect("a device");
    println!("{}", opened.notice);
    let source = Source {
        checkpoint: &checkpoint,
        samples: Some(&samples),
        outliers: None,
    };
    let layers = f64::from(checkpoint.config.num_hidden_layers);
    let mut silent = |_: Progress| {};
    let before = peak_memory();
    heap::forget_peak();
    let start = Instant::now();
    let plan = decide(&source, &mut opened.executor, &recipe, &mut silent).await;
    let plan = plan.unwrap_or_else(|error| panic!("{error}"));
    let deciding = start.elapsed().as_secs_f64() / layers;
    let decided = peak_memory();
    let deciding_heap = heap::peak();
    heap::forget_peak();
    let start = Instant::now();
    if text("dry", "no") != "yes" {
        let device = &mut opened.executor;
        let done = write(&source, device, &recipe, &plan, &out, u64::MAX, &mut silent).await;
        done.unwrap_or_else(|error| panic!("{error}"));
    }
    let writing = start.elapsed().as_secs_f64() / layers;

    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let config = &checkpoint.config;
    let linears = config.layer_linears(0);
    let weights = linears
        .iter()
        .map(|l| u64::from(l.in_features) * u64::from(l.out_features));
    let flat = plan
        .iter()
        .flat_map(|layer| &layer.groups)
        .flat_map(|group| &group.linears);
    let widest = flat
        .map(|linear| u64::from(linear.flat_features()))
        .max()
        .unwrap_or(0);
    let rows = (windows * tokens) as u64;
    let (bits, int4_share, added) = totals(&plan);
    println!("{name}, {layers} layers, {windows} windows of {tokens} tokens, {recipe_name}");
    println!("seconds a layer: calibrating {deciding:.1}, quantizing {writing:.1}");
    println!(
        "a layer's weights in f32 {:.0} MB, its largest Hessian twice in 4 bytes {:.0} MB, hidden states twice {:.0} MB",
        megabytes(4 * weights.sum::<u64>()),
        megabytes(8 * widest * widest),
        megabytes(8 * rows * u64::from(config.hidden_size)),
    );
    let peaks = [before, decided, peak_memory()].map(|bytes| bytes.map_or(f64::NAN, megabytes));
    println!(
        "most memory of the process, MB: {:.0} before, {:.0} after calibrating, {:.0} after quantizing",
        peaks[0], peaks[1], peaks[2]
    );
    println!(
        "most of the heap, without what the driver has, MB: {:.0} while calibrating, {:.0} while quantizing",
        megabytes(deciding_heap as u64),
        megabytes(heap::peak() as u64),
    );
    println!(
        "{bits:.3} bits a weight, {:.2} % of the work in INT4 by INT4, {:.2} % channels added",
        100.0 * int4_share,
        100.0 * added
    );
    budget(&full, &plan);
}

/// What a key says.
fn number<T: FromStr<Err: Debug>>(keys: &BTreeMap<&str, &str>, key: &str, default: T) -> T {
    let value = keys.get(key).map(|value| value.parse());
    value.map_or(default, |value| value.expect("a number after ="))
}

/// Random halves, the norms' weights ones.
fn write_random(folder: &Path, json: &Value) {
    let config = ModelConfig::parse("config.json", &json.to_string()).expect("a configuration");
    let mut tensors: Vec<(NewTensor, f32)> = Vec::new();
    let mut add = |name: String, shape: &[u32], scale: f32| {
        let tensor = NewTensor {
            name,
            dtype: Dtype::F16,
            shape: shape.iter().copied().map(u64::from).collect(),
        };
        tensors.push((tensor, scale));
    };
    for table in config.tables() {
        let shape = [config.vocab_size, config.hidden_size];
        add(format!("{table}.weight"), &shape, 1.0);
    }
    for linear in config.linears() {
        let shape = [linear.out_features, linear.in_features];
        let scale = GAIN / (linear.in_features as f32).sqrt();
        add(format!("{}.weight", linear.name), &shape, scale);
    }
    for (name, len) in config.norms() {
        add(name, &[len], 0.0);
    }
    let announced = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    let mut writer = CheckpointWriter::create(folder, announced, u64::MAX).expect("a new folder");
    let mut rng = Rng::new(1);
    for (tensor, scale) in &tensors {
        let mut left = tensor.bytes() as usize / 2;
        while left > 0 {
            let len = left.min(CHUNK);
            let values = (0..len).map(|_| match *scale {
                0.0 => f16::ONE,
                // The sum of three is near enough to a normal distribution, which is what flattening is for.
                scale => f16::from_f32(scale * (rng.unit() + rng.unit() + rng.unit())),
            });
            let bytes: Vec<u8> = values.flat_map(f16::to_le_bytes).collect();
            writer
                .append(&tensor.name, &bytes)
                .expect("room on the disk");
            left -= len;
        }
    }
    writer.finish(json).expect("room on the disk");
}

/// What the whole shape takes on a device: layers as they were planned, over and over.
fn budget(full: &Value, plan: &[LayerPlan]) {
    let config = ModelConfig::parse("config.json", &full.to_string()).expect("a configuration");
    let planned = |name: &str| {
        let layer = name.split('.').find_map(|word| word.parse::<usize>().ok());
        let at = layer.map_or(0, |layer| layer % plan.len());
        let own = name.replace(
            &format!("layers.{}.", layer.unwrap_or(0)),
            &format!("layers.{at}."),
        );
        let mut linears = plan[at].groups.iter().flat_map(|group| &group.linears);
        let linear = linears.find(|linear| linear.shape.name == own);
        linear.expect("every layer has the same linears").spec()
    };
    let half = |_: &str| LinearSpec {
        format: WeightFormat::F16,
        input: Input::Float,
    };
    let int8 = WeightFormat::Int {
        bits: Bits::Int8,
        group_size: 0,
    };
    let memory = |linear: &dyn Fn(&str) -> LinearSpec, table: WeightFormat, kv_type: KvType| {
        let capacity = Capacity {
            context_size: CONTEXT,
            max_sequences: 1,
            max_rows: ROWS,
            kv_type,
        };
        let weights = WeightsConfig {
            linear,
            table,
            max_buffer_bytes: u64::MAX,
            prefix_tokens: &[],
            hidden_prefix: false,
        };
        let part = Part::whole(&config);
        let model = Model::new(config.clone(), part, capacity, Default::default(), &weights);
        let step = StepShape::Rows {
            rows: ROWS,
            tiles: ROWS,
            logits: 1,
        };
        let scratch = model.step(&step).plan.scratch_bytes();
        let small = model.shared.bytes() - model.weight_bytes - model.kv_bytes;
        [model.weight_bytes, model.kv_bytes, small + scratch]
    };
    println!(
        "\n{} layers on a device, {CONTEXT} tokens of context, prompts in steps of {ROWS}:\n",
        config.num_hidden_layers
    );
    println!("| | weights, MB | KV cache, MB | scratch, MB | total, MB | FP16 over it |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let fp16 = memory(&half, WeightFormat::F16, KvType::F16);
    let quantized = |kv_type| memory(&planned, int8, kv_type);
    for (name, parts) in [
        ("FP16, KV cache in FP16", fp16),
        ("quantized, KV cache in FP16", quantized(KvType::F16)),
        ("quantized, KV cache in INT8", quantized(KvType::I8)),
    ] {
        let [weights, kv, scratch] = parts.map(|bytes| bytes as f64 / 1e6);
        let total: u64 = parts.iter().sum();
        println!(
            "| {name} | {weights:.0} | {kv:.0} | {scratch:.0} | {:.0} | {:.2} |",
            total as f64 / 1e6,
            fp16.iter().sum::<u64>() as f64 / total as f64
        );
    }
}
