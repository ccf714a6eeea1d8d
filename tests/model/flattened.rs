//! Static activation scales and flatten maps, through a whole model.

use plateau::checkpoint::{
    ActivationFormat, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, LinearFormat,
    NewTensor, QuantizationConfig,
};
use plateau::exec::Executor;
use plateau::model::StepShape;
use plateau::plan::{BufferId, Dispatch, Grid, Plan};
use plateau::session::{LoadOptions, Row, Session};
use plateau::tensor::{Bits, Granularity, KvType, WeightBits};
use plateau_shaders::attention::paged_attention::FlatParams;
use plateau_shaders::attention::tiles;
use plateau_shaders::quantize::flatten_quantize;
use plateau_shaders::{Kernel, elementwise, norm, pack};
use plateau_tests::{device, model};
use std::collections::BTreeMap;
use std::path::Path;

const DEFAULT: LinearFormat = LinearFormat {
    weight_bits: WeightBits::Int8,
    weight_scale: Granularity::PerChannel,
    group_size: 0,
    activations: ActivationFormat::Dynamic(Bits::Int8),
};

/// One scale for every input. The goldens' activations stay under 126 steps of it.
const SCALE: f32 = 0.1;

/// What a flat channel's column holds of a weight.
type Column = fn(i8) -> i8;

/// How a linear's input becomes integers.
#[derive(Clone, Copy)]
pub(super) struct Style {
    activations: ActivationFormat,
    /// Of every channel.
    parts: u32,
    /// Every channel is repeated, and each weight is the sum of its two columns.
    repeated: bool,
}

impl Style {
    pub(super) const fn new(bits: Bits, parts: u32) -> Self {
        Self {
            activations: ActivationFormat::Static(bits),
            parts,
            repeated: false,
        }
    }

    /// Part of each extra channel of a source, and what its column holds of a weight.
    fn extras(self) -> Vec<(u32, Column)> {
        let (half, rest): (Column, Column) = (|w| w / 2, |w| w - w / 2);
        if self.repeated {
            let parts = (1..self.parts).flat_map(|part| [(part, half), (part, rest)]);
            std::iter::once((0, rest)).chain(parts).collect()
        } else {
            let whole: Column = |w| w;
            (1..self.parts).map(|part| (part, whole)).collect()
        }
    }

    fn columns(self, row: &[i8]) -> Vec<i8> {
        let extras = self.extras();
        let bulk = |&w: &i8| if self.repeated { w / 2 } else { w };
        let of_source = |&w: &i8| extras.iter().map(move |(_, of)| of(w)).collect::<Vec<i8>>();
        let bulk = row.iter().map(bulk);
        bulk.chain(row.iter().flat_map(of_source)).collect()
    }
}

/// Rounds a float checkpoint to INT8 weights whose inputs are as `style` says of each linear.
async fn write(float: &Checkpoint, out: &Path, style: impl Fn(&str) -> Style) {
    let config = &float.config;
    let mut quantization = QuantizationConfig::new("a test", DEFAULT);
    let mut tensors: Vec<(NewTensor, Vec<u32>)> = Vec::new();
    let mut push = |name: String, dtype: Dtype, shape: &[u32], words: Vec<u32>| {
        let shape = shape.iter().map(|&size| u64::from(size)).collect();
        tensors.push((NewTensor { name, dtype, shape }, words));
    };
    for (norm, len) in config.norms() {
        let values = float
            .read_f32(&norm, 0, len as usize)
            .await
            .expect("a norm");
        push(norm, Dtype::F32, &[len], bytemuck::cast_vec(values));
    }
    for (name, shape) in config.float_matrices() {
        let name = format!("{name}.weight");
        let values = float.read_f32(&name, 0, (shape[0] * shape[1]) as usize);
        let words = bytemuck::cast_vec(values.await.expect("a matrix"));
        push(name, Dtype::F32, &shape, words);
    }
    for table in config.tables() {
        let (scales, rows) = rows(float, table, config.vocab_size, config.embedding_size()).await;
        let words: Vec<u32> = rows.iter().flat_map(|row| pack::pack_i8(row)).collect();
        let row_words = words.len() as u32 / config.vocab_size;
        push(
            format!("{table}.qweight"),
            Dtype::U32,
            &[config.vocab_size, row_words],
            words,
        );
        let scales = bytemuck::cast_vec(scales);
        push(
            format!("{table}.scales"),
            Dtype::F32,
            &[config.vocab_size],
            scales,
        );
    }
    for linear in config.linears() {
        let (name, inputs, outputs) = (&linear.name, linear.in_features, linear.out_features);
        let style = style(name);
        let format = LinearFormat {
            activations: style.activations,
            ..DEFAULT
        };
        quantization.overrides.insert(name.clone(), format);
        let (scales, rows) = rows(float, name, outputs, inputs).await;
        let fixed = matches!(style.activations, ActivationFormat::Static(_));
        let words: Vec<u32> = match fixed {
            false => rows.iter().flat_map(|row| pack::pack_i8(row)).collect(),
            true => {
                let flat = |row: &Vec<i8>| pack::pack_i8(&style.columns(row));
                rows.iter().flat_map(flat).collect()
            }
        };
        let row_words = words.len() as u32 / outputs;
        push(
            format!("{name}.qweight"),
            Dtype::U32,
            &[outputs, row_words],
            words,
        );
        push(
            format!("{name}.scales"),
            Dtype::F32,
            &[outputs],
            bytemuck::cast_vec(scales),
        );
        if fixed {
            let parts = style.extras();
            let of_source = |source: u32| {
                let parts = parts.iter();
                parts.map(move |(part, _)| flatten_quantize::extra(source, *part))
            };
            let map: Vec<u32> = (0..inputs).flat_map(of_source).collect();
            let count = parts.len() as u32;
            let index = (0..inputs).flat_map(|source| [source * count, count]);
            let scale = vec![SCALE.to_bits()];
            push(format!("{name}.input_scale"), Dtype::F32, &[1], scale);
            let len = map.len() as u32;
            push(format!("{name}.flatten_map"), Dtype::U32, &[len], map);
            let index = index.collect();
            let shape = [inputs, 2];
            push(format!("{name}.flatten_index"), Dtype::U32, &shape, index);
        }
        if linear.bias {
            let bias = format!("{name}.bias");
            let values = float
                .read_f32(&bias, 0, outputs as usize)
                .await
                .expect("a bias");
            push(bias, Dtype::F32, &[outputs], bytemuck::cast_vec(values));
        }
    }
    let config = float.config_with(&quantization).await.expect("a config");
    let (tensors, words): (Vec<NewTensor>, Vec<Vec<u32>>) = tensors.into_iter().unzip();
    let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let mut writer = CheckpointWriter::create(out, tensors, DEFAULT_SHARD_BYTES).expect("a folder");
    for (name, words) in names.iter().zip(&words) {
        writer.append_words(name, words).expect("room on the disk");
    }
    writer.finish(&config).expect("room on the disk");
}

/// Scales and INT8 rows of a float tensor.
async fn rows(float: &Checkpoint, name: &str, rows: u32, columns: u32) -> (Vec<f32>, Vec<Vec<i8>>) {
    let columns = columns as usize;
    let weight = format!("{name}.weight");
    let values = float
        .read_f32(&weight, 0, rows as usize * columns)
        .await
        .expect("a weight");
    let quantized = values.chunks_exact(columns).map(|row| {
        let (scale, words) = pack::quantize_row_i8(row);
        let mut row = vec![0; columns];
        pack::unpack_i8(&words, &mut row);
        (scale, row)
    });
    quantized.unzip()
}

pub(super) async fn written(
    float: &Checkpoint,
    style: impl Fn(&str) -> Style,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(float, folder.path(), style).await;
    folder
}

/// INT4 activations in 18 parts reach 18 * 7 = 126 steps: as far as INT8, in the same steps. Flattening keeps the product
/// exactly, and so does a repeated channel whose columns sum to the weight. So the logits are equal, bit for bit.
#[test]
fn flattened_int4_activations_equal_int8_ones() {
    pollster::block_on(async {
        let repeated = |style: Style| Style {
            repeated: true,
            ..style
        };
        let styles = [
            Style::new(Bits::Int8, 1),
            Style::new(Bits::Int4, 18),
            repeated(Style::new(Bits::Int8, 1)),
            repeated(Style::new(Bits::Int4, 18)),
        ];
        for (case, folder) in model::goldens().into_iter().enumerate() {
            let float = model::open(&folder).await;
            let ids: Vec<u32> = (0..21)
                .map(|i| (i * i + 5) % float.config.vocab_size)
                .collect();
            let mut expected: Vec<Vec<f32>> = Vec::new();
            for (style, number) in styles.into_iter().zip(0..) {
                let folder_of_style = written(&float, |_| style).await;
                let checkpoint = model::open(folder_of_style.path()).await;
                for (device, executor) in device::for_case(case).await.into_iter().enumerate() {
                    let what = format!(
                        "{}, style {number} on {}",
                        folder.display(),
                        executor.name()
                    );
                    let options = LoadOptions::default();
                    let mut session = model::load(&checkpoint, executor, &options).await;
                    let logits = model::logits(&mut session, &ids, None).await;
                    let chunked = model::logits(&mut session, &ids, Some(3)).await;
                    assert!(chunked == logits, "{what}: chunks of 3 rows");
                    assert!(
                        logits.iter().any(|logit| logit.abs() > 1.0),
                        "{what}: trivial"
                    );
                    match expected.get(device) {
                        None => expected.push(logits),
                        Some(first) => assert!(logits == *first, "{what}: the logits differ"),
                    }
                }
            }
        }
    });
}

/// The plan with each producer of flat integers replaced by the operation that it stands for, and `flatten_quantize`.
fn unfused(plan: &Plan, rows: u32) -> Plan {
    let mut unfused = Plan {
        dispatches: Vec::new(),
        ..plan.clone()
    };
    for dispatch in &plan.dispatches {
        let Some(operation) = dispatch.kernel.name.strip_suffix("_flat") else {
            unfused.dispatches.push(dispatch.clone());
            continue;
        };
        let kernel = plateau_shaders::kernel(operation).expect("what it stands for");
        let [inputs @ .., map, x_q] = &dispatch.bindings[..] else {
            panic!("every kernel has two bindings");
        };
        let features_of = |features: u32| u64::from(rows) * u64::from(features);
        let quantize = match operation {
            "rms_norm" | "layer_norm" => {
                let params: norm::rms_norm_flat::Params =
                    bytemuck::pod_read_unaligned(&dispatch.params);
                let x = unfused.scratch("x", features_of(params.features));
                // The parameters of both norms.
                let norm = norm::rms_norm::Params {
                    rows,
                    hidden: params.features,
                    eps: params.eps,
                };
                let grid = Grid::Fixed(norm::rms_norm::grid(&norm));
                unfused.dispatch("x", kernel, norm, grid, &[inputs, &[x]].concat());
                (x, params.quantize())
            }
            "silu_mul" => {
                let params: flatten_quantize::Params =
                    bytemuck::pod_read_unaligned(&dispatch.params);
                let x = unfused.scratch("x", features_of(params.features));
                let features = params.features;
                let product = elementwise::silu_mul::Params { rows, features };
                let grid = Grid::Fixed(elementwise::silu_mul::grid(&product));
                unfused.dispatch("x", kernel, product, grid, &[inputs, &[x]].concat());
                (x, params)
            }
            "relu" => {
                let params: flatten_quantize::Params =
                    bytemuck::pod_read_unaligned(&dispatch.params);
                let features = params.features;
                let positive = elementwise::relu::Params { rows, features };
                let grid = Grid::Fixed(elementwise::relu::grid(&positive));
                unfused.dispatch("x", kernel, positive, grid, inputs);
                (inputs[0], params)
            }
            attention if attention.starts_with("attention_") => {
                let params: FlatParams = bytemuck::pod_read_unaligned(&dispatch.params);
                let features = params.attention.heads * params.attention.head_dim;
                let x = unfused.scratch("x", features_of(features));
                let bindings = [inputs, &[x]].concat();
                let grid = dispatch.grid;
                unfused.dispatch("x", kernel, params.attention, grid, &bindings);
                let quantize = flatten_quantize::Params {
                    rows,
                    features,
                    flat_features: params.flat_features,
                    q_max: params.q_max,
                    inv_scale: params.inv_scale,
                };
                (x, quantize)
            }
            other => panic!("{other}_flat stands for two operations that this test does not know"),
        };
        let (x, params) = quantize;
        let grid = Grid::Fixed(flatten_quantize::grid(&params));
        let kernel: &'static Kernel = &flatten_quantize::KERNEL;
        unfused.dispatch("x_q", kernel, params, grid, &[x, *map, *x_q]);
    }
    unfused
}

/// How often each kernel stands in a plan.
fn counts(plan: &Plan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for Dispatch { kernel, .. } in &plan.dispatches {
        *counts.entry(kernel.name).or_default() += 1;
    }
    counts
}

/// Logits of a step's rows, by the session's plan and by the same plan unfused.
async fn fused_and_unfused(session: &mut Session, rows: &[Row]) -> [Vec<f32>; 2] {
    let wanted: Vec<u32> = (0..rows.len() as u32).collect();
    let fused = session.step(rows, &wanted).await.expect("a step");
    let row_info: Vec<[u32; 2]> = rows.iter().map(|r| [r.sequence, r.position]).collect();
    let shape = StepShape::Rows {
        rows: rows.len() as u32,
        tiles: tiles(&row_info).len() as u32,
        logits: rows.len() as u32,
    };
    let (model, executor) = session.parts();
    let step = model.step(&shape);
    let plan = unfused(&step.plan, rows.len() as u32);
    assert!(plan.dispatches.len() > step.plan.dispatches.len());
    let logits: Option<BufferId> = step.logits;
    let logits = logits.expect("logits were asked for");
    // The step's buffers still hold the rows; it writes the same keys and values again.
    let plan = executor.prepare(plan).await.expect("a plan");
    executor.run(plan).expect("it runs");
    let words = executor.read(Some(plan), logits, 0..fused.len() as u64);
    let unfused = bytemuck::cast_vec(words.await.expect("the logits"));
    executor.release(plan);
    [fused, unfused]
}

#[test]
fn producers_of_integers_change_no_bit() {
    pollster::block_on(async {
        for (golden, folder) in model::goldens().into_iter().enumerate() {
            let float = model::open(&folder).await;
            let folder_of_style = written(&float, |_| Style::new(Bits::Int4, 18)).await;
            let checkpoint = model::open(folder_of_style.path()).await;
            let row = |position: u32| Row {
                sequence: 0,
                position,
                token: (position * position + 5) % float.config.vocab_size,
            };
            let ids: Vec<u32> = (0..21).map(|position| row(position).token).collect();
            for (at, kv_type) in [KvType::F32, KvType::F16, KvType::I8]
                .into_iter()
                .enumerate()
            {
                for executor in device::for_case(3 * golden + at).await {
                    let what = format!("{} {kv_type:?} on {}", folder.display(), executor.name());
                    let options = LoadOptions {
                        kv_type,
                        ..LoadOptions::default()
                    };
                    let mut session = model::load(&checkpoint, executor, &options).await;
                    // A prefill, then a decode.
                    let mut logits = Vec::new();
                    for rows in [0..19, 19..21] {
                        let rows: Vec<Row> = rows.map(row).collect();
                        let [fused, unfused] = fused_and_unfused(&mut session, &rows).await;
                        assert!(fused == unfused, "{what}, {} rows", rows.len());
                        logits.extend(fused);
                    }
                    for chunk in [1, 9] {
                        let chunked = model::logits(&mut session, &ids, Some(chunk)).await;
                        assert!(chunked == logits, "{what}: chunks of {chunk} rows");
                    }
                }
            }
        }
    });
}

/// What quantizes in each layer of a golden whose inputs are all static.
const OF_A_LAYER: [(&str, &[(&str, usize)]); 8] = [
    ("llama-bias-tied-rope-linear", LLAMA),
    ("llama-gqa-rope-llama3", LLAMA),
    ("mistral-window", LLAMA_BETWEEN_WORDS),
    ("opt-bare", OPT_BETWEEN_WORDS),
    ("opt-post-norm-project", OPT_POST_NORM_BETWEEN_WORDS),
    ("opt-pre-norm", OPT),
    ("qwen2-shards", LLAMA_BETWEEN_WORDS),
    ("qwen3-qk-norm", LLAMA),
];
const LLAMA: &[(&str, usize)] = &[
    ("rms_norm_flat", 2),
    ("attention_decode_f16_flat", 1),
    ("silu_mul_flat", 1),
];
/// Heads whose features are not whole words, 4 each: what attention makes is quantized after it.
const LLAMA_BETWEEN_WORDS: &[(&str, usize)] = &[
    ("rms_norm_flat", 2),
    ("flatten_quantize", 1),
    ("silu_mul_flat", 1),
];
const OPT: &[(&str, usize)] = &[
    ("layer_norm_flat", 2),
    ("attention_decode_f16_flat", 1),
    ("relu_flat", 1),
];
const OPT_BETWEEN_WORDS: &[(&str, usize)] = &[
    ("layer_norm_flat", 2),
    ("flatten_quantize", 1),
    ("relu_flat", 1),
];
/// Attention and MLP read the residual stream, which is there as floats.
const OPT_POST_NORM_BETWEEN_WORDS: &[(&str, usize)] = &[("flatten_quantize", 3), ("relu_flat", 1)];

#[test]
fn static_inputs_are_written_by_what_produces_them() {
    pollster::block_on(async {
        for folder in model::goldens() {
            let of_golden = |(name, _): &&(&str, _)| folder.ends_with(name);
            let (_, of_a_layer) = OF_A_LAYER
                .iter()
                .find(of_golden)
                .unwrap_or_else(|| panic!("{}: not in the table", folder.display()));
            let float = model::open(&folder).await;
            let layers = float.config.num_hidden_layers as usize;
            for style in [Style::new(Bits::Int8, 1), Style::new(Bits::Int4, 18)] {
                let folder_of_style = written(&float, |_| style).await;
                let checkpoint = model::open(folder_of_style.path()).await;
                let options = LoadOptions::default();
                let mut session = model::load(&checkpoint, Executor::twin(), &options).await;
                let plan = session.parts().0.step(&STEP).plan;
                let mut found = counts(&plan);
                found.retain(|name, _| name.ends_with("_flat") || name.contains("quantize"));
                // The head's.
                assert_eq!(found.remove("quantize_dynamic"), Some(1));
                let expected = of_a_layer.iter().map(|(name, n)| (*name, n * layers));
                assert_eq!(found, expected.collect(), "{}", folder.display());
                // Floats that are stored nowhere have no buffer either.
                let fused = |name: &str| of_a_layer.iter().any(|(found, _)| *found == name);
                let scratch = |label: &str| plan.scratch.iter().any(|desc| desc.label == label);
                assert!(!scratch("activated"), "{}", folder.display());
                assert_eq!(
                    scratch("attended"),
                    !fused("attention_decode_f16_flat"),
                    "{}",
                    folder.display()
                );
            }
        }
    });
}

/// A step of few rows.
const STEP: StepShape = StepShape::Rows {
    rows: 3,
    tiles: 1,
    logits: 1,
};

/// A producer runs once for each form of its output that a projection reads.
#[test]
fn a_producer_runs_once_for_each_input() {
    pollster::block_on(async {
        let float = model::open(&model::goldens()[0]).await;
        let layers = float.config.num_hidden_layers as usize;
        let counted = async |style: &dyn Fn(&str) -> Style| {
            let folder = written(&float, style).await;
            let checkpoint = model::open(folder.path()).await;
            let options = LoadOptions::default();
            let mut session = model::load(&checkpoint, Executor::twin(), &options).await;
            // What the plan of a model with mixed inputs gives does not depend on chunks either.
            let ids: Vec<u32> = (0..13).collect();
            let whole = model::logits(&mut session, &ids, None).await;
            assert!(model::logits(&mut session, &ids, Some(4)).await == whole);
            let plan = session.parts().0.step(&STEP).plan;
            (plan.dispatches.len(), counts(&plan))
        };
        let of = |counts: &BTreeMap<&'static str, usize>, name: &str| {
            counts.get(name).copied().unwrap_or(0)
        };

        let dynamic = Style {
            activations: ActivationFormat::Dynamic(Bits::Int8),
            ..Style::new(Bits::Int8, 1)
        };
        let (before, all_dynamic) = counted(&|_| dynamic).await;
        assert_eq!(of(&all_dynamic, "quantize_dynamic"), 4 * layers + 1);

        // Two norms, attention and a product of each layer lose the dispatch that quantized; the head is as it was.
        let (after, fixed) = counted(&|_| Style::new(Bits::Int8, 2)).await;
        assert_eq!(of(&fixed, "rms_norm_flat"), 2 * layers);
        assert_eq!(of(&fixed, "silu_mul_flat"), layers);
        assert_eq!(of(&fixed, "rms_norm"), 1);
        assert_eq!(of(&fixed, "silu_mul"), 0);
        assert_eq!(of(&fixed, "quantize_dynamic"), 1);
        assert_eq!(of(&fixed, "attention_decode_f16_flat"), layers);
        assert_eq!(of(&fixed, "flatten_quantize"), 0);
        assert_eq!(before - after, 4 * layers);

        // q and v share a static input, k has floats quantized for each token; gate and up have two static inputs.
        let (_, mixed) = counted(&|name| match name.rsplit('.').next() {
            Some("k_proj") => dynamic,
            Some("up_proj") => Style::new(Bits::Int8, 2),
            _ => Style::new(Bits::Int8, 1),
        })
        .await;
        assert_eq!(of(&mixed, "rms_norm_flat"), 3 * layers);
        assert_eq!(of(&mixed, "rms_norm"), layers + 1);
        assert_eq!(of(&mixed, "quantize_dynamic"), layers + 1);
        assert_eq!(of(&mixed, "flatten_quantize"), 0);
    });
}
