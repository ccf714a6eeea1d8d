//! The quantized checkpoint: rounding, writing, reading, refusing.

use crate::files::{
    HIDDEN, Model, VOCAB, assert_message, assert_refused, f32_tensor, open, tiny, write,
};
use plateau::checkpoint::{
    ActivationFormat, Checkpoint, DEFAULT_SHARD_BYTES, FLATTEN_PADDING, KvPrefix, LinearFormat,
    LoadError, LoadErrorKind, QuantizationConfig, check_flatten_map,
};
use plateau::exec::Executor;
use plateau::session::{LoadOptions, Session};
use plateau::tensor::{Bits, Granularity, WeightBits};
use plateau_tests::model::{ROUNDED, integers, round_to_nearest};
use pollster::block_on;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const W4: LinearFormat = LinearFormat {
    weight_bits: WeightBits::Int4,
    weight_scale: Granularity::PerChannel,
    group_size: 32,
    activations: ActivationFormat::Dynamic(Bits::Int8),
};

fn formats() -> Vec<LinearFormat> {
    let mut formats = Vec::new();
    for weight_scale in [Granularity::PerChannel, Granularity::PerTensor] {
        for group_size in LinearFormat::GROUP_SIZES {
            formats.push(LinearFormat {
                weight_scale,
                group_size,
                ..W4
            });
        }
        for weight_bits in [WeightBits::Int5, WeightBits::Int6, WeightBits::Int8] {
            formats.push(LinearFormat {
                weight_bits,
                group_size: 0,
                weight_scale,
                ..W4
            });
        }
    }
    formats
}

/// Every file of a folder.
fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        (name, std::fs::read(path).expect("readable"))
    });
    files.collect()
}

fn round(checkpoint: &Checkpoint, format: LinearFormat, shard_bytes: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    block_on(round_to_nearest(
        checkpoint,
        folder.path(),
        format,
        shard_bytes,
        &mut |_| {},
    ))
    .expect("rounded");
    folder
}

/// A weight as the format gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dequantized {
    value: f64,
    /// Between two values that its group can have.
    step: f64,
    /// What the group's next multiplier would add to the step.
    scale: f64,
}

/// A linear's weights, [out, in].
fn dequantize(
    checkpoint: &Checkpoint,
    name: &str,
    format: LinearFormat,
    shape: [usize; 2],
) -> Vec<Dequantized> {
    let [out_features, in_features] = shape;
    let words = |suffix: &str, len: u32| {
        let len = len as usize * out_features;
        block_on(checkpoint.read_u32(&format!("{name}.{suffix}"), 0, len)).expect("valid")
    };
    let row_words = format.row_words(in_features as u32);
    let qweight = words("qweight", row_words);
    let high_words = format.high_row_words(in_features as u32);
    let high = if high_words > 0 {
        words("qweight_high", high_words)
    } else {
        Vec::new()
    };
    let multiplier_words = format.multiplier_words(in_features as u32) as usize;
    let multipliers = if multiplier_words > 0 {
        words("multipliers", multiplier_words as u32)
    } else {
        Vec::new()
    };
    let num_scales = format.num_scales(out_features as u32) as usize;
    let scales =
        block_on(checkpoint.read_scales(&format!("{name}.scales"), num_scales)).expect("valid");
    let mut weights = Vec::new();
    for row in 0..out_features {
        let row_integers = integers(
            &qweight[row * row_words as usize..][..row_words as usize],
            &high[row * high_words as usize..][..high_words as usize],
            format.weight_bits,
        );
        assert!(
            row_integers[in_features..]
                .iter()
                .all(|&padding| padding == 0)
        );
        for feature in 0..in_features {
            let multiplier = match (feature as u32).checked_div(format.group_size) {
                None => 1,
                Some(group) => {
                    let group = group as usize;
                    1 + (multipliers[row * multiplier_words + group / 8] >> (4 * (group % 8)) & 15)
                }
            };
            assert!(row_integers[feature].unsigned_abs() <= format.weight_bits.q_max());
            let scale = f64::from(scales[row % num_scales]);
            let step = scale * f64::from(multiplier);
            weights.push(Dequantized {
                value: f64::from(row_integers[feature]) * step,
                step,
                scale,
            });
        }
    }
    weights
}

/// Room for the roundings of scale and quotient in f32.
const F32_ROUNDING: f64 = 1e-5;

/// Whether some weight of a group is out of its integers' reach; the others are within half a step. That is right only where
/// one multiplier more would reach it and cost more in sum.
fn is_clipped(expected: &[f32], found: &[Dequantized], q_max: f64, what: &str) -> bool {
    let Dequantized { step, scale, .. } = found[0];
    let error = |(&expected, found): (&f32, &Dequantized)| f64::from(expected) - found.value;
    let reach = (q_max + 0.5) * step * (1.0 + F32_ROUNDING);
    let mut clipped = false;
    for pair in expected.iter().zip(found) {
        let within = error(pair).abs() <= step * (0.5 + F32_ROUNDING);
        let beyond = f64::from(*pair.0).abs() > reach;
        assert!(within || beyond, "{what}: {} became {:?}", pair.0, pair.1);
        clipped |= !within;
    }
    if clipped {
        let next = step + scale;
        let rounded = |&weight: &f32| {
            let integer = (f64::from(weight) / next).round_ties_even();
            assert!(
                integer.abs() <= q_max,
                "{what}: {weight} is out of reach of {next} too"
            );
            (f64::from(weight) - integer * next).powi(2)
        };
        let least: f64 = expected.iter().map(rounded).sum();
        let squares: f64 = expected.iter().zip(found).map(|p| error(p).powi(2)).sum();
        assert!(
            squares <= least * (1.0 + F32_ROUNDING),
            "{what}: clipping costs {squares}, the next multiplier {least}"
        );
    }
    clipped
}

#[test]
fn rounding_is_within_half_a_step_unless_clipping_costs_less() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let mut clipped_in_all = 0;
    for format in formats() {
        let mut clipped = 0;
        let rounded = round(&float, format, u64::MAX);
        let quantized = open(rounded.path()).expect("valid");
        let found = quantized.quantization.as_ref().expect("quantized");
        assert_eq!(*found, QuantizationConfig::new(ROUNDED, format));
        let table = LinearFormat {
            weight_bits: WeightBits::Int8,
            group_size: 0,
            weight_scale: Granularity::PerChannel,
            ..format
        };
        let mut weights = vec![
            (
                "model.embed_tokens".to_owned(),
                [VOCAB as usize, HIDDEN as usize],
                table,
            ),
            (
                "lm_head".to_owned(),
                [VOCAB as usize, HIDDEN as usize],
                table,
            ),
        ];
        for linear in float.config.linears() {
            let bias = format!("{}.bias", linear.name);
            let read = |checkpoint: &Checkpoint| {
                block_on(checkpoint.read_f32(&bias, 0, linear.out_features as usize))
            };
            assert_eq!(
                read(&quantized).expect("there"),
                read(&float).expect("there")
            );
            weights.push((
                linear.name,
                [linear.out_features as usize, linear.in_features as usize],
                format,
            ));
        }
        for (name, shape, format) in weights {
            let expected =
                block_on(float.read_f32(&format!("{name}.weight"), 0, shape[0] * shape[1]))
                    .expect("there");
            let found = dequantize(&quantized, &name, format, shape);
            let q_max = f64::from(format.weight_bits.q_max());
            let rows = expected.chunks(shape[1]).zip(found.chunks(shape[1]));
            for (row, (expected, found)) in rows.enumerate() {
                let group_size = match format.group_size {
                    0 => shape[1],
                    size => size as usize,
                };
                let groups = expected.chunks(group_size).zip(found.chunks(group_size));
                for (group, (expected, found)) in groups.enumerate() {
                    let what = format!("{format:?} {name} row {row} group {group}");
                    clipped += usize::from(is_clipped(expected, found, q_max, &what));
                }
            }
        }
        assert!(
            clipped == 0 || format.group_size > 0,
            "{format:?}: {clipped} clipped, with no multiplier to choose"
        );
        clipped_in_all += clipped;
        for (norm, len) in float.config.norms() {
            let read = |checkpoint: &Checkpoint| {
                block_on(checkpoint.read_f32(&norm, 0, len as usize)).expect("there")
            };
            assert_eq!(read(&quantized), read(&float));
        }
    }
    assert!(clipped_in_all > 0, "no group was worth clipping");
}

#[test]
fn int4_words_are_laid_out_as_the_format_says() {
    let mut model = tiny();
    // A row of 20 features with absmax 7: the scale without groups is 1.
    let mut row = vec![0.0; HIDDEN as usize];
    row[..8].copy_from_slice(&[-7.0, -1.0, 0.0, 1.0, 2.0, 3.5, 4.5, 7.0]);
    let rows = row.repeat(12);
    model.tensors.insert(
        "model.layers.0.self_attn.k_proj.weight".to_owned(),
        f32_tensor(&[12, HIDDEN], &rows),
    );
    let folder = model.write();
    let rounded = round(
        &open(folder.path()).expect("valid"),
        LinearFormat {
            group_size: 0,
            ..W4
        },
        u64::MAX,
    );
    let quantized = open(rounded.path()).expect("valid");
    let words = block_on(quantized.read_u32("model.layers.0.self_attn.k_proj.qweight", 0, 4))
        .expect("there");
    // Low nibbles -7 -1 0 1, high nibbles 2 4 4 7 (ties to even), each plus 8.
    assert_eq!(
        words,
        [0xf9_c8_c7_a1, 0x8888_8888, 0x8888_8888, 0x8888_8888]
    );
}

#[test]
fn int5_and_int6_words_are_laid_out_as_the_format_says() {
    // Rows of 20 features with the largest integers: the scale is 1.
    let words = |weight_bits: WeightBits, values: [f32; 8]| {
        let mut model = tiny();
        let mut row = vec![0.0; HIDDEN as usize];
        row[..8].copy_from_slice(&values);
        model.tensors.insert(
            "model.layers.0.self_attn.k_proj.weight".to_owned(),
            f32_tensor(&[12, HIDDEN], &row.repeat(12)),
        );
        let folder = model.write();
        let format = LinearFormat {
            weight_bits,
            group_size: 0,
            ..W4
        };
        let rounded = round(&open(folder.path()).expect("valid"), format, u64::MAX);
        let quantized = open(rounded.path()).expect("valid");
        let name = "model.layers.0.self_attn.k_proj";
        let read = |suffix: &str, len: usize| {
            block_on(quantized.read_u32(&format!("{name}.{suffix}"), 0, len)).expect("there")
        };
        let high_words = format.high_row_words(HIDDEN as u32) as usize;
        (read("qweight", 4), read("qweight_high", high_words))
    };
    // 1, 15, 16, 17 and 18, 20, 20, 31 of 31, all else 16.
    let (nibbles, high) = words(
        WeightBits::Int5,
        [-15.0, -1.0, 0.0, 1.0, 2.0, 3.5, 4.5, 15.0],
    );
    assert_eq!(nibbles, [0xf1_40_4f_21, 0, 0, 0]);
    assert_eq!(high, [0xff_ff_fe_fe]);
    // 1, 31, 32, 33 and 34, 36, 36, 63 of 63, all else 32.
    let (nibbles, high) = words(
        WeightBits::Int6,
        [-31.0, -1.0, 0.0, 1.0, 2.0, 3.5, 4.5, 31.0],
    );
    assert_eq!(nibbles, [0xf1_40_4f_21, 0, 0, 0]);
    assert_eq!(high, [0xae_aa_a9_a8, 0xaaaa_aaaa]);
}

#[test]
fn rows_of_zeros_have_a_scale_of_zero() {
    let mut model = tiny();
    let name = "model.layers.0.mlp.up_proj.weight";
    model.tensor(name).data.fill(0);
    // So small that the scale is subnormal.
    model
        .tensor("model.embed_tokens.weight")
        .data
        .copy_from_slice(&1e-40_f32.to_le_bytes().repeat((VOCAB * HIDDEN) as usize));
    let folder = model.write();
    let float = open(folder.path()).expect("valid");
    for format in formats() {
        let rounded = round(&float, format, u64::MAX);
        let quantized = open(rounded.path()).expect("valid");
        let weights = dequantize(
            &quantized,
            "model.layers.0.mlp.up_proj",
            format,
            [70, HIDDEN as usize],
        );
        assert!(
            weights
                .iter()
                .all(|weight| (weight.value, weight.step) == (0.0, 0.0)),
            "{format:?}"
        );
        let scales = block_on(quantized.read_scales("model.embed_tokens.scales", VOCAB as usize))
            .expect("valid");
        assert_eq!(scales, [0.0; VOCAB as usize]);
    }
}

#[test]
fn the_same_model_makes_the_same_bytes() {
    let folder = tiny().write();
    let shards = tiny().write_shards(|_| {});
    let [first, second] = [folder.path(), shards.path()].map(|path| {
        let rounded = round(&open(path).expect("valid"), W4, u64::MAX);
        bytes_of(rounded.path())
    });
    assert_eq!(first, second);
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(
        first["tokenizer.json"],
        bytes_of(folder.path())["tokenizer.json"]
    );
}

#[test]
fn shards_hold_what_one_file_holds() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let single = round(&float, W4, u64::MAX);
    let single = open(single.path())
        .map(|checkpoint| (checkpoint, single))
        .expect("valid");
    // 1: every tensor is a shard of its own.
    for shard_bytes in [1, 1500, 5000] {
        let rounded = round(&float, W4, shard_bytes);
        let sharded = open(rounded.path()).expect("valid");
        assert!(sharded.files().len() > 2);
        assert_eq!(sharded.tensors.len(), single.0.tensors.len());
        for (name, info) in &single.0.tensors {
            let other = sharded
                .expect_dtype(name, &info.shape, info.dtype)
                .expect("there");
            let mut bytes = [vec![0; info.bytes as usize], vec![0; other.bytes as usize]];
            block_on(single.0.read(name, 0, &mut bytes[0])).expect("there");
            block_on(sharded.read(name, 0, &mut bytes[1])).expect("there");
            assert_eq!(bytes[0], bytes[1], "{name}");
        }
        let index = std::fs::read_to_string(rounded.path().join("model.safetensors.index.json"))
            .expect("there");
        let index: Value = serde_json::from_str(&index).expect("JSON");
        let total: u64 = single.0.tensors.values().map(|info| info.bytes).sum();
        assert_eq!(index["metadata"]["total_size"], total);
    }
}

#[test]
fn the_official_crate_reads_what_is_written() {
    let folder = tiny().write();
    let rounded = round(&open(folder.path()).expect("valid"), W4, u64::MAX);
    let bytes = std::fs::read(rounded.path().join("model.safetensors")).expect("there");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
    let scales = tensors.tensor("lm_head.scales").expect("there");
    assert_eq!(
        (scales.dtype(), scales.shape()),
        (safetensors::Dtype::F32, &[VOCAB as usize][..])
    );
}

#[test]
fn progress_ends_at_its_total() {
    let folder = tiny().write();
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut steps = Vec::new();
    let checkpoint = open(folder.path()).expect("valid");
    block_on(round_to_nearest(
        &checkpoint,
        out.path(),
        W4,
        DEFAULT_SHARD_BYTES,
        &mut |step| steps.push((step.done, step.total)),
    ))
    .expect("rounded");
    assert!(steps.is_sorted());
    assert!(
        steps
            .last()
            .is_some_and(|(done, total)| done == total && *total > 0)
    );
}

#[test]
fn nothing_is_written_over_and_nothing_is_quantized_twice() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let before = bytes_of(folder.path());
    let occupied = block_on(round_to_nearest(
        &float,
        folder.path(),
        W4,
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
    .expect_err("occupied");
    assert_message(
        &occupied,
        &[&folder.path().display().to_string(), "already"],
    );
    assert_eq!(bytes_of(folder.path()), before);

    let rounded = round(&float, W4, u64::MAX);
    let out = tempfile::tempdir().expect("a temporary folder");
    let quantized = open(rounded.path()).expect("valid");
    let twice = block_on(round_to_nearest(
        &quantized,
        out.path(),
        W4,
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
    .expect_err("quantized");
    assert_message(&twice, &["quantized already", ROUNDED]);
    let fixed = LinearFormat {
        activations: ActivationFormat::Static(Bits::Int8),
        ..W4
    };
    let uncalibrated = block_on(round_to_nearest(
        &float,
        out.path(),
        fixed,
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
    .expect_err("no calibration");
    assert_message(&uncalibrated, &["calibration"]);
}

#[test]
fn weights_that_are_not_finite_are_not_rounded() {
    let mut model = tiny();
    model.tensor("lm_head.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = model.write();
    let out = tempfile::tempdir().expect("a temporary folder");
    let checkpoint = open(folder.path()).expect("headers are valid");
    let error = block_on(round_to_nearest(
        &checkpoint,
        out.path(),
        W4,
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
    .expect_err("NaN");
    assert_message(
        &error,
        &["model.safetensors", "lm_head.weight", "element 0", "NaN"],
    );
    assert!(
        !out.path().join("config.json").exists(),
        "what is not whole does not look like a model"
    );
}

// Reading.

fn parse(quantization: Value) -> Result<Option<QuantizationConfig>, LoadError> {
    QuantizationConfig::parse(
        "config.json",
        &json!({ "quantization_config": quantization }).to_string(),
    )
}

#[test]
fn a_config_is_read_as_it_was_written() {
    let mut config = QuantizationConfig::new("a recipe", W4);
    let other = LinearFormat {
        weight_bits: WeightBits::Int8,
        weight_scale: Granularity::PerTensor,
        group_size: 0,
        activations: ActivationFormat::Static(Bits::Int4),
    };
    config
        .overrides
        .insert("model.layers.0.mlp.down_proj".to_owned(), other);
    let float = LinearFormat {
        activations: ActivationFormat::Float,
        ..W4
    };
    config
        .overrides
        .insert("model.layers.0.mlp.up_proj".to_owned(), float);
    config.kv_prefix = Some(KvPrefix { tokens: vec![1, 4] });
    assert_eq!(
        parse(config.to_json()).expect("valid"),
        Some(config.clone())
    );
    assert_eq!(config.format("model.layers.0.mlp.down_proj"), other);
    assert_eq!(config.format("model.layers.1.mlp.down_proj"), W4);
    assert_eq!(
        config.to_json()["overrides"]["model.layers.0.mlp.up_proj"]["activation_bits"],
        Value::Null
    );
    let mut absent = config.to_json();
    let up = &mut absent["overrides"]["model.layers.0.mlp.up_proj"];
    up.as_object_mut()
        .expect("an object")
        .remove("activation_bits");
    assert_eq!(parse(absent).expect("valid"), Some(config.clone()));
    assert_eq!(parse(Value::Null).expect("valid"), None);
    let mut older = config.to_json();
    older["version"] = 1.into();
    config.version = 1;
    assert_eq!(parse(older).expect("valid"), Some(config));
}

#[test]
fn checkpoints_of_other_methods_are_refused_by_name() {
    for method in [
        "gptq",
        "awq",
        "fp8",
        "bitsandbytes",
        "compressed-tensors",
        "mxfp4",
        "quanto",
    ] {
        let mut model = tiny();
        model.config["quantization_config"] =
            json!({ "quant_method": method, "bits": 4, "group_size": 128 });
        let parts = [
            "config.json",
            "quantization_config.quant_method",
            &format!("found '{method}'"),
            "'flattenquant'",
        ];
        assert_refused(open(model.write().path()), LoadErrorKind::Invalid, &parts);
    }
    let mut model = tiny();
    model.config["quantization_config"] = json!({ "load_in_4bit": true });
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["config.json", "found 'bitsandbytes'"],
    );
    model.config["quantization_config"] = json!({ "bits": 4 });
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["config.json", "quant_method", "found nothing"],
    );
    model.config["quantization_config"] = json!("gptq");
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["config.json", "found \"gptq\"", "an object"],
    );
    let mut model = tiny();
    model.config["compression_config"] = json!({ "format": "pack-quantized" });
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["config.json", "compression_config", "pack-quantized"],
    );
}

#[test]
fn a_config_of_this_method_with_odd_values_is_refused() {
    let changed = |path: &str, value: Value| {
        let mut config = QuantizationConfig::new("a recipe", W4).to_json();
        *config.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        parse(config)
    };
    let refused = |path: &str, value: Value, parts: &[&str]| {
        assert_refused(changed(path, value), LoadErrorKind::Invalid, parts);
    };
    refused(
        "/version",
        json!(3),
        &["quantization_config.version", "found 3", "expected 1 to 2"],
    );
    refused(
        "/default/weight_bits",
        json!(3),
        &[
            "quantization_config.default.weight_bits",
            "found 3",
            "4, 5, 6 or 8",
        ],
    );
    refused(
        "/default/activation_bits",
        json!(16),
        &["default.activation_bits", "found 16", "4 or 8"],
    );
    refused(
        "/default/group_size",
        json!(48),
        &["default.group_size", "found 48", "0, 32, 64 or 128"],
    );
    for bits in [5, 6, 8] {
        let expected = format!("0 where weight_bits is {bits}");
        let parts = ["default.group_size", "found 32", &expected];
        refused("/default/weight_bits", json!(bits), &parts);
    }
    refused(
        "/default/weight_scale",
        json!("row"),
        &[
            "default.weight_scale",
            "found 'row'",
            "'channel' or 'tensor'",
        ],
    );
    refused(
        "/default/activation_scale",
        json!(null),
        &["default.activation_scale", "found nothing"],
    );
    refused(
        "/default/activation_scale",
        json!("group"),
        &[
            "default.activation_scale",
            "found 'group'",
            "'dynamic', 'static' or 'float'",
        ],
    );
    refused(
        "/default/activation_scale",
        json!("float"),
        &["default.activation_bits", "found 8", "null"],
    );
    refused(
        "/default/activation_bits",
        json!(null),
        &["default.activation_bits", "found nothing"],
    );
    refused(
        "/overrides",
        json!({ "a": 4 }),
        &["quantization_config.overrides.a", "found 4", "an object"],
    );
    let prefixes = [
        (json!({}), "found nothing"),
        (json!({ "tokens": 4 }), "found 4"),
        (json!({ "tokens": [] }), "found 0 of them"),
        (json!({ "tokens": vec![1; 65] }), "found 65 of them"),
        (json!({ "tokens": [1, -1] }), "found -1"),
        (
            json!({ "tokens": [u64::MAX] }),
            "found 18446744073709551615",
        ),
        (json!({ "tokens": ["<s>"] }), "found \"<s>\""),
    ];
    for (prefix, found) in prefixes {
        let parts = ["quantization_config.kv_prefix.tokens", found];
        refused("/kv_prefix", prefix, &parts);
    }
    refused(
        "/kv_prefix",
        json!({ "tokens": [1], "file": "prefix.safetensors" }),
        &["quantization_config.kv_prefix.file", "version 2"],
    );
    let mut config = QuantizationConfig::new("a recipe", W4).to_json();
    config["zero_points"] = json!(true);
    assert_refused(
        parse(config),
        LoadErrorKind::Invalid,
        &["quantization_config.zero_points", "version 2"],
    );
}

/// The tiny model, rounded, with its config changed.
fn rounded_with(change: impl FnOnce(&mut Value)) -> Result<Checkpoint, LoadError> {
    let folder = tiny().write();
    let rounded = round(&open(folder.path()).expect("valid"), W4, u64::MAX);
    let config = std::fs::read_to_string(rounded.path().join("config.json")).expect("there");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    change(&mut config["quantization_config"]);
    write(rounded.path(), "config.json", config.to_string().as_bytes());
    open(rounded.path())
}

#[test]
fn tensors_that_do_not_fit_the_format_are_refused() {
    let group = rounded_with(|config| config["default"]["group_size"] = 0.into());
    group.expect("multipliers that nobody reads are no error");
    let bits = rounded_with(|config| {
        config["default"]["weight_bits"] = 8.into();
        config["default"]["group_size"] = 0.into();
    });
    assert_refused(
        bits,
        LoadErrorKind::Invalid,
        &[
            "model.layers.0.self_attn.q_proj.qweight",
            "found [24, 4]",
            "[24, 8]",
        ],
    );
    let scale = rounded_with(|config| config["default"]["weight_scale"] = "tensor".into());
    assert_refused(
        scale,
        LoadErrorKind::Invalid,
        &["q_proj.scales", "found [24]", "expected [1]"],
    );
    let fixed = rounded_with(|config| config["default"]["activation_scale"] = "static".into());
    assert_refused(
        fixed,
        LoadErrorKind::Invalid,
        &["q_proj.input_scale", "found nothing"],
    );
    let unknown = rounded_with(|config| config["overrides"]["lm_head"] = config["default"].clone());
    assert_refused(
        unknown,
        LoadErrorKind::Invalid,
        &[
            "config.json",
            "overrides",
            "'lm_head'",
            "a linear of this model",
        ],
    );
}

#[test]
fn planes_that_do_not_fit_the_format_are_refused() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let name = "model.layers.0.self_attn.q_proj.qweight_high";
    // q_proj is [24, 20]: a word of high bits for each row of INT5, two for INT6.
    for (weight_bits, columns) in [(WeightBits::Int5, 1), (WeightBits::Int6, 2)] {
        let format = LinearFormat {
            weight_bits,
            group_size: 0,
            ..W4
        };
        let rounded = round(&float, format, u64::MAX);
        let path = rounded.path().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("there");
        let opened = |change: &dyn Fn(&mut BTreeMap<String, crate::files::RawTensor>)| {
            let mut tensors = crate::files::raw_tensors(&bytes);
            change(&mut tensors);
            let bytes = crate::files::safetensors(&tensors);
            write(rounded.path(), "model.safetensors", &bytes);
            open(rounded.path())
        };
        opened(&|_| {}).expect("valid");
        let missing = opened(&|tensors| drop(tensors.remove(name)));
        assert_refused(missing, LoadErrorKind::Invalid, &[name, "found nothing"]);
        let short = opened(&|tensors| {
            let high = tensors.get_mut(name).expect("there");
            high.shape[0] -= 1;
            high.data.truncate(high.data.len() - 4 * columns);
        });
        let (found, expected) = (format!("[23, {columns}]"), format!("[24, {columns}]"));
        assert_refused(short, LoadErrorKind::Invalid, &[name, &found, &expected]);
        let float = opened(&|tensors| {
            tensors.get_mut(name).expect("there").dtype = "F32".to_owned();
        });
        assert_refused(float, LoadErrorKind::Invalid, &[name, "F32", "U32"]);
    }
}

#[test]
fn integers_out_of_range_are_refused_with_their_row() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let name = "model.layers.0.self_attn.q_proj";
    for format in formats() {
        let rounded = round(&float, format, u64::MAX);
        let bytes = std::fs::read(rounded.path().join("model.safetensors")).expect("there");
        let mut tensors = crate::files::raw_tensors(&bytes);
        // Feature 9 of row 5 becomes the one integer below the range.
        let mut change = |suffix: &str, row_words: u32, word: u32, mask: u32, value: u32| {
            let tensor = tensors.get_mut(&format!("{name}.{suffix}")).expect("there");
            let at = 4 * (5 * row_words + word) as usize;
            let word: [u8; 4] = tensor.data[at..at + 4].try_into().expect("a word");
            let word = u32::from_le_bytes(word) & !mask | value;
            tensor.data[at..at + 4].copy_from_slice(&word.to_le_bytes());
        };
        let (row_words, high_words) = (format.row_words(20), format.high_row_words(20));
        match format.weight_bits {
            WeightBits::Int8 => change("qweight", row_words, 2, 0xff00, 0x8000),
            // Its nibble, and the high bits of the third four features.
            _ => change("qweight", row_words, 1, 0xf00, 0),
        }
        match format.weight_bits {
            WeightBits::Int5 => change("qweight_high", high_words, 0, 1 << (8 + 2), 0),
            WeightBits::Int6 => change("qweight_high", high_words, 0, 3 << (8 + 4), 0),
            WeightBits::Int4 | WeightBits::Int8 => {}
        }
        write(
            rounded.path(),
            "model.safetensors",
            &crate::files::safetensors(&tensors),
        );
        let checkpoint = open(rounded.path()).expect("headers are valid");
        let q_max = format.weight_bits.q_max();
        let parts = [
            "model.safetensors",
            &format!("row 5 of tensor '{name}.qweight'"),
            &format!("found -{}", q_max + 1),
            &format!("from -{q_max} to {q_max}"),
        ];
        let read = block_on(checkpoint.read_weight(name, format, 20, 4..7));
        assert_refused(read.map(drop), LoadErrorKind::Invalid, &parts);
        block_on(checkpoint.read_weight(name, format, 20, 0..5)).expect("the rows before it");
        let options = LoadOptions::default();
        let mut progress = |_| {};
        let session = Session::load(&checkpoint, Executor::twin(), &options, &mut progress);
        let message = block_on(session).err().expect("refused").to_string();
        for part in parts {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
    }
}

#[test]
fn a_stored_prefix_that_does_not_fit_the_model_is_refused() {
    let prefix =
        |tokens: Value| rounded_with(|config| config["kv_prefix"] = json!({ "tokens": tokens }));
    let beyond = format!("found token id {VOCAB}");
    assert_refused(
        prefix(json!([1, VOCAB])),
        LoadErrorKind::Invalid,
        &["config.json", "kv_prefix.tokens", &beyond],
    );
    assert_refused(
        prefix(json!([1])),
        LoadErrorKind::Invalid,
        &["model.layers.0.self_attn.k_prefix", "found nothing"],
    );

    // 12 features of keys and of values, in both layers.
    let opened = |rows: u64, value: f32| {
        let folder = tiny().write();
        let rounded = round(&open(folder.path()).expect("valid"), W4, u64::MAX);
        let bytes = std::fs::read(rounded.path().join("model.safetensors")).expect("there");
        let mut tensors = crate::files::raw_tensors(&bytes);
        for layer in 0..2 {
            for name in ["k_prefix", "v_prefix"] {
                let name = format!("model.layers.{layer}.self_attn.{name}");
                let mut values = vec![0.5; 12 * rows as usize];
                values[7] = value;
                tensors.insert(name, f32_tensor(&[rows, 12], &values));
            }
        }
        let bytes = crate::files::safetensors(&tensors);
        write(rounded.path(), "model.safetensors", &bytes);
        let config = std::fs::read_to_string(rounded.path().join("config.json")).expect("there");
        let mut config: Value = serde_json::from_str(&config).expect("JSON");
        config["quantization_config"]["kv_prefix"] = json!({ "tokens": [1, 2] });
        write(rounded.path(), "config.json", config.to_string().as_bytes());
        open(rounded.path()).map(|checkpoint| (rounded, checkpoint))
    };
    opened(2, 1.0).expect("valid");
    assert_refused(
        opened(3, 1.0).map(drop),
        LoadErrorKind::Invalid,
        &["k_prefix", "found [3, 12]", "expected [2, 12]"],
    );
    let (_folder, checkpoint) = opened(2, f32::INFINITY).expect("headers are valid");
    let options = LoadOptions::default();
    let mut progress = |_| {};
    let session = Session::load(&checkpoint, Executor::twin(), &options, &mut progress);
    let message = block_on(session).err().expect("refused").to_string();
    for part in ["self_attn.k_prefix", "element 7", "inf"] {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn float_weights_are_no_substitute_for_integers() {
    let mut model: Model = tiny();
    model.config["quantization_config"] = QuantizationConfig::new("none", W4).to_json();
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["model.embed_tokens.qweight", "found nothing"],
    );
}

// Flatten maps. Five channels; 1 has three parts, 4 has two, and there is room between them.

const MAP: [u32; 4] = [1 | 1 << 24, 1 | 2 << 24, FLATTEN_PADDING, 4 | 1 << 24];
const INDEX: [u32; 10] = [0, 0, 0, 2, 0, 0, 0, 0, 3, 1];

#[test]
fn a_flatten_map_and_its_inverse_give_the_kernels_form() {
    let kernel = check_flatten_map(&MAP, &INDEX).expect("valid");
    assert_eq!(kernel[..5], [1, 3, 1, 1, 2]);
    assert_eq!(kernel[5..], MAP);
    assert_eq!(
        check_flatten_map(&[], &[0, 0, 0, 0]).expect("valid"),
        [1, 1]
    );
    // As many parts as a word can name, each twice.
    let map: Vec<u32> = (0..510).map(|extra| (extra / 2) << 24).collect();
    let kernel = check_flatten_map(&map, &[0, 510]).expect("valid");
    assert_eq!((kernel[0], &kernel[1..]), (255, &map[..]));
}

#[test]
fn a_flatten_map_may_repeat_any_part() {
    // Channel 0 is repeated whole; channel 2 has three parts, of which 0 and 2 are repeated.
    let map = [
        2,
        2,
        2 | 1 << 24,
        2 | 2 << 24,
        2 | 2 << 24,
        FLATTEN_PADDING,
        0,
    ];
    let kernel = check_flatten_map(&map, &[6, 1, 0, 0, 0, 5]).expect("valid");
    assert_eq!(kernel[..3], [1, 1, 3]);
    assert_eq!(kernel[3..], map);
}

#[test]
fn a_flatten_map_that_disagrees_with_its_inverse_is_refused() {
    let refused = |map: &[u32], index: &[u32], parts: &[&str]| {
        let wrong = check_flatten_map(map, index).expect_err("wrong");
        let message = format!(
            "{}: found {}, expected {}",
            wrong.what, wrong.found, wrong.expected
        );
        parts
            .iter()
            .for_each(|part| assert!(message.contains(part), "no {part:?} in: {message}"));
    };
    let index = |at: usize, value: u32| {
        let mut index = INDEX;
        index[at] = value;
        index
    };
    let map = |at: usize, value: u32| {
        let mut map = MAP;
        map[at] = value;
        map
    };
    refused(
        &MAP,
        &index(0, 1),
        &["first extra channel of channel 0", "found 1", "expected 0"],
    );
    refused(
        &MAP,
        &index(3, 1),
        &[
            "extra channel 1",
            "does not name",
            "0x02000001",
            "0xff000000",
        ],
    );
    refused(
        &MAP,
        &index(3, 3),
        &[
            "extra channel 2",
            "channel 1's",
            "0xff000000",
            "part 2 or 3 of channel 1",
        ],
    );
    for (first, count) in [(u32::MAX, 2), (2, u32::MAX), (u32::MAX, u32::MAX), (3, 2)] {
        let mut index = index(2, first);
        index[3] = count;
        let end = u64::from(first) + u64::from(count);
        let found = format!("found {end}, expected at most 4");
        refused(&MAP, &index, &["extra channels of channel 1", &found]);
    }
    refused(
        &MAP,
        &index(8, 0),
        &["extra channel 0", "channel 4's", "part 1 of channel 1"],
    );
    // A part left out, a first part that is too high, parts that descend, another channel's.
    let wrong = [
        (1, 1 | 3 << 24, "part 3 of channel 1"),
        (0, 1 | 2 << 24, "part 2 of channel 1"),
        (1, 1, "part 0 of channel 1"),
        (1, 2 | 2 << 24, "part 2 of channel 2"),
    ];
    for (at, word, found) in wrong {
        let what = format!("extra channel {at}");
        refused(&map(at, word), &INDEX, &[&what, "channel 1's", found]);
    }
    // One channel named by two rows: it has the words of one of them.
    refused(
        &[1 << 24],
        &[0, 1, 0, 1],
        &["extra channel 0", "channel 1's", "part 1 of channel 0"],
    );
    // Part 255 is nobody's.
    let parts: Vec<u32> = (1..256).map(|part| part << 24).collect();
    refused(
        &parts,
        &[0, 255],
        &["extra channel 254", "0xff000000", "expected part 254 of"],
    );
    refused(&[1], &[0, 0, 0, 0], &["extra channel 0", "does not name"]);
}

#[test]
fn static_activations_are_read_with_their_map() {
    let folder = tiny().write();
    let float = open(folder.path()).expect("valid");
    let rounded = round(
        &float,
        LinearFormat {
            group_size: 0,
            ..W4
        },
        u64::MAX,
    );
    // One linear becomes static: 20 channels and 4 extra ones still fit the 32 that its words have room for.
    let name = "model.layers.1.mlp.gate_proj";
    let mut index = vec![0; 2 * HIDDEN as usize];
    index[..10].copy_from_slice(&INDEX);
    let static_tensors = |scale: f32, map: &[u32]| {
        let path = rounded.path().join("model.safetensors");
        let bytes = std::fs::read(path).expect("there");
        let mut tensors = crate::files::raw_tensors(&bytes);
        let words = |shape: &[u64], words: &[u32]| crate::files::RawTensor {
            dtype: "U32".to_owned(),
            shape: shape.to_vec(),
            data: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        tensors.insert(format!("{name}.input_scale"), f32_tensor(&[1], &[scale]));
        tensors.insert(
            format!("{name}.flatten_map"),
            words(&[map.len() as u64], map),
        );
        tensors.insert(format!("{name}.flatten_index"), words(&[HIDDEN, 2], &index));
        write(
            rounded.path(),
            "model.safetensors",
            &crate::files::safetensors(&tensors),
        );
        let mut quantization = QuantizationConfig::new(
            "by hand",
            LinearFormat {
                group_size: 0,
                ..W4
            },
        );
        let fixed = LinearFormat {
            activations: ActivationFormat::Static(Bits::Int8),
            ..quantization.default
        };
        quantization.overrides.insert(name.to_owned(), fixed);
        let config = block_on(float.config_with(&quantization)).expect("valid");
        write(rounded.path(), "config.json", config.to_string().as_bytes());
        open(rounded.path())
    };

    let checkpoint = static_tensors(0.25, &MAP).expect("valid");
    assert_eq!(
        block_on(checkpoint.read_input_scale(name)).expect("valid"),
        0.25
    );
    let kernel = block_on(checkpoint.read_flatten_map(name, HIDDEN as u32)).expect("valid");
    assert_eq!(kernel.len(), HIDDEN as usize + MAP.len());
    assert_eq!(kernel[..6], [1, 3, 1, 1, 2, 1]);

    let mut spoiled = MAP;
    spoiled[1] = 0;
    let checkpoint = static_tensors(-1.0, &spoiled).expect("shapes are right");
    let map = block_on(checkpoint.read_flatten_map(name, HIDDEN as u32));
    let tensor = format!("{name}.flatten_map");
    assert_refused(
        map,
        LoadErrorKind::Invalid,
        &[&tensor, "extra channel 1", "0x00000000", "of channel 1"],
    );
    let scale = block_on(checkpoint.read_input_scale(name));
    assert_refused(
        scale,
        LoadErrorKind::Invalid,
        &["model.safetensors", "input_scale", "found -1"],
    );
    // The inverse of a subnormal is not finite.
    for (scale, found) in [
        (0.0, "found 0"),
        (1e-40, "found 0.0000"),
        (f32::NAN, "found NaN"),
    ] {
        let checkpoint = static_tensors(scale, &MAP).expect("shapes are right");
        let scale = block_on(checkpoint.read_input_scale(name));
        let parts = ["model.safetensors", "input_scale", found];
        assert_refused(scale, LoadErrorKind::Invalid, &parts);
    }
    // More extra channels than the words have room for.
    let long = [FLATTEN_PADDING; 13];
    let parts = [
        &format!("{name}.qweight")[..],
        "found [70, 4]",
        "expected [70, 8]",
    ];
    assert_refused(static_tensors(0.25, &long), LoadErrorKind::Invalid, &parts);
}
