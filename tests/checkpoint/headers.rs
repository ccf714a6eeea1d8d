//! safetensors files, right and spoiled.

use crate::files::{
    HIDDEN, Model, RawTensor, assert_refused, f32_tensor, open, safetensors, shard_name, tiny,
    with_header, write,
};
use ::safetensors::SafeTensors;
use ::safetensors::tensor::TensorView;
use half::{bf16, f16};
use plateau::checkpoint::{Dtype, LoadErrorKind};
use plateau_tests::Rng;
use pollster::block_on;
use serde_json::{Value, json};
use std::path::Path;

const NORM: &str = "model.norm.weight";
const FILE: &str = "model.safetensors";

/// The tiny model with its weights' file replaced.
#[track_caller]
fn refused_file(file: &[u8], parts: &[&str]) {
    let folder = tiny().write();
    write(folder.path(), FILE, file);
    let parts: Vec<&str> = [FILE].iter().chain(parts).copied().collect();
    assert_refused(open(folder.path()), LoadErrorKind::Invalid, &parts);
}

#[track_caller]
fn refused_model(change: impl FnOnce(&mut Model), parts: &[&str]) {
    let mut model = tiny();
    change(&mut model);
    assert_refused(open(model.write().path()), LoadErrorKind::Invalid, parts);
}

#[test]
fn a_single_file_and_shards_hold_the_same_tensors() {
    let model = tiny();
    let (single, shards) = (model.write(), model.write_shards(|_| {}));
    let (single, shards) = (
        open(single.path()).expect("valid"),
        open(shards.path()).expect("valid"),
    );
    assert_eq!((single.files().len(), shards.files().len()), (1, 2));
    for (name, raw) in &model.tensors {
        for checkpoint in [&single, &shards] {
            let info = checkpoint.expect(name, &raw.shape).expect("there");
            assert_eq!(
                (info.dtype, info.bytes),
                (Dtype::F32, raw.data.len() as u64)
            );
            let mut bytes = vec![0; raw.data.len() - 3];
            block_on(checkpoint.read(name, 3, &mut bytes)).expect("in range");
            assert_eq!(bytes, raw.data[3..]);
        }
    }
}

#[test]
fn floats_are_widened_exactly_and_in_pieces() {
    let mut rng = Rng::new(3);
    // Longer than the piece that a read converts at a time, and not a multiple of it.
    let len = 700_001_u64;
    let values: Vec<f32> = (0..len).map(|_| rng.unit() * 1e-6).collect();
    let halves: Vec<f16> = values.iter().copied().map(f16::from_f32).collect();
    let brains: Vec<bf16> = values.iter().copied().map(bf16::from_f32).collect();
    let mut model = tiny();
    let raw = |dtype: &str, data| RawTensor {
        dtype: dtype.to_owned(),
        shape: vec![len],
        data,
    };
    model
        .tensors
        .insert("f32".to_owned(), f32_tensor(&[len], &values));
    model.tensors.insert(
        "f16".to_owned(),
        raw(
            "F16",
            halves.iter().flat_map(|half| half.to_le_bytes()).collect(),
        ),
    );
    model.tensors.insert(
        "bf16".to_owned(),
        raw(
            "BF16",
            brains
                .iter()
                .flat_map(|brain| brain.to_le_bytes())
                .collect(),
        ),
    );
    let folder = model.write();
    let checkpoint = open(folder.path()).expect("valid");
    let read = |name| block_on(checkpoint.read_f32(name, 5, len as usize - 5)).expect("finite");
    assert_eq!(read("f32"), values[5..]);
    assert_eq!(
        read("f16"),
        halves[5..]
            .iter()
            .map(|half| half.to_f32())
            .collect::<Vec<_>>()
    );
    assert_eq!(
        read("bf16"),
        brains[5..]
            .iter()
            .map(|brain| brain.to_f32())
            .collect::<Vec<_>>()
    );
    assert!(
        halves
            .iter()
            .any(|half| !half.is_normal() && half.to_f32() != 0.0),
        "subnormal halves are among them"
    );
}

#[test]
fn nan_and_infinity_are_refused_with_tensor_and_element() {
    for (bad, found) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let mut model = tiny();
        model.tensor(NORM).data[4 * 17..][..4].copy_from_slice(&bad.to_le_bytes());
        let folder = model.write();
        let checkpoint = open(folder.path()).expect("headers are valid");
        let read = |first| block_on(checkpoint.read_f32(NORM, first, 10));
        read(0).expect("finite");
        let parts = [
            FILE,
            "element 17",
            NORM,
            &format!("found {found}"),
            "finite",
        ];
        assert_refused(read(9), LoadErrorKind::Invalid, &parts);
    }
}

#[test]
fn reads_beyond_a_tensor_or_of_another_type_are_refused() {
    let folder = tiny().write();
    let checkpoint = open(folder.path()).expect("valid");
    let beyond = block_on(checkpoint.read_f32(NORM, HIDDEN, 1));
    assert_refused(
        beyond,
        LoadErrorKind::Invalid,
        &[FILE, NORM, "found 20 elements", "21 or more"],
    );
    let far = block_on(checkpoint.read_f32(NORM, u64::MAX, 2));
    assert_refused(far, LoadErrorKind::Invalid, &[FILE, NORM]);
    let huge = block_on(checkpoint.read_f32(NORM, 0, usize::MAX / 8));
    assert_refused(huge, LoadErrorKind::Invalid, &[FILE, NORM]);
    let words = block_on(checkpoint.read_u32(NORM, 0, 1));
    assert_refused(
        words,
        LoadErrorKind::Invalid,
        &[FILE, NORM, "found F32", "U32"],
    );
    let missing = block_on(checkpoint.read_f32("model.norm.wight", 0, 1));
    assert_refused(
        missing,
        LoadErrorKind::Invalid,
        &["model.norm.wight", "found nothing"],
    );
}

#[test]
fn empty_and_truncated_files_are_refused() {
    refused_file(b"", &["length", "found 0 bytes"]);
    refused_file(b"\x02\0\0", &["length", "found 3 bytes"]);
    let whole = safetensors(&tiny().tensors);
    // In the header.
    refused_file(&whole[..100], &["header length", "at most 92"]);
    // In the data: the last tensor reaches beyond the end.
    refused_file(
        &whole[..whole.len() - 1],
        &["data_offsets", "tensor", "within"],
    );
    // Too long.
    let mut longer = whole;
    longer.push(0);
    refused_file(
        &longer,
        &["length of the data", "where the last tensor ends"],
    );
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let folder = tiny().write();
    let checkpoint = open(folder.path()).expect("valid");
    let file = std::fs::File::options()
        .write(true)
        .open(folder.path().join(FILE))
        .expect("writable");
    file.set_len(3000).expect("truncated");
    let name = "model.norm.weight";
    let result = block_on(checkpoint.read_f32(name, 0, HIDDEN as usize));
    assert_refused(
        result,
        LoadErrorKind::Invalid,
        &[FILE, "80 bytes at offset", "the end of the file at 3000"],
    );
}

#[test]
fn a_huge_header_is_refused_before_it_is_allocated() {
    for length in [u64::MAX, 1 << 40, 100_000_001] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend_from_slice(b"{}");
        refused_file(&file, &["header length", &length.to_string(), "at most 2"]);
    }
    // A file that is long enough (without its blocks on disk) does not make a longer header right.
    let folder = tiny().write();
    let path = folder.path().join(FILE);
    write(folder.path(), FILE, &100_000_001_u64.to_le_bytes());
    std::fs::File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(200_000_000))
        .expect("a sparse file");
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &[FILE, "header length", "at most 100000000"],
    );
}

#[test]
fn headers_that_are_no_objects_of_tensors_are_refused() {
    refused_file(
        &with_header("[1]", &[]),
        &["start of the header", "0x5b", "'{'"],
    );
    refused_file(&with_header("{\"a\": ", &[]), &["header", "EOF"]);
    refused_file(&with_header(r#"{"a": 1}"#, &[]), &["tensor 'a'"]);
    refused_file(&with_header("{\"a\": \"\u{1}\"}", &[]), &["header"]);
    refused_file(
        &with_header(r#"{"a": {"dtype": "F32", "shape": [1]}}"#, &[]),
        &["tensor 'a'", "data_offsets"],
    );
    let negative = r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#;
    refused_file(&with_header(negative, &[0; 4]), &["tensor 'a'", "-1"]);
    let deep = "[".repeat(100_000);
    refused_file(
        &with_header(&format!("{{\"a\": {deep}"), &[]),
        &["header", "EOF"],
    );
    // Names come from the file: the message stays one short line.
    let name = "\\n".repeat(5000);
    refused_file(
        &with_header(&format!("{{\"{name}\": 1}}"), &[]),
        &["\\n", "…"],
    );
}

fn header_of(tensors: &[(&str, &str, &[u64], [u64; 2])]) -> String {
    let entries = tensors.iter().map(|(name, dtype, shape, offsets)| {
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        format!("{}:{entry}", Value::from(*name))
    });
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

#[test]
fn offsets_may_not_overlap_leave_holes_or_leave_the_file() {
    let refused = |tensors: &[(&str, &str, &[u64], [u64; 2])], len: usize, parts: &[&str]| {
        refused_file(&with_header(&header_of(tensors), &vec![0; len]), parts);
    };
    refused(
        &[("a", "F32", &[2], [0, 8]), ("b", "F32", &[1], [4, 8])],
        8,
        &["'b'", "found 4", "expected 8", "overlap"],
    );
    refused(
        &[("a", "F32", &[1], [0, 4]), ("b", "F32", &[1], [8, 12])],
        12,
        &["'b'", "found 8", "expected 4", "hole"],
    );
    refused(
        &[("a", "F32", &[1], [4, 8])],
        8,
        &["'a'", "found 4", "expected 0"],
    );
    refused(
        &[("a", "F32", &[2], [0, 8])],
        4,
        &["'a'", "found 0..8", "the 4 bytes"],
    );
    refused(&[("a", "F32", &[2], [8, 0])], 8, &["'a'", "found 8..0"]);
    refused(
        &[("a", "F32", &[3], [0, 8])],
        8,
        &["'a'", "found 8 bytes", "expected 12"],
    );
    refused(
        &[("a", "F32", &[1], [0, 4]), ("a", "F32", &[1], [0, 4])],
        4,
        &["'a' twice"],
    );
    let max = u64::MAX;
    refused(
        &[("a", "F32", &[max, max], [0, 4])],
        4,
        &["'a'", "fewer than 2^64"],
    );
    refused(
        &[("a", "F32", &[1 << 62], [0, 0])],
        0,
        &["'a'", "found 0 bytes"],
    );
    refused(
        &[("a", "F32", &[1; 9], [0, 4])],
        4,
        &["'a'", "rank", "found 9"],
    );
}

#[test]
fn wrong_shapes_and_dtypes_are_refused_by_name() {
    refused_model(
        |model| model.tensor(NORM).shape = vec![HIDDEN / 2, 2],
        &[FILE, NORM, "found [10, 2]", "expected [20]"],
    );
    refused_model(
        |model| {
            let tensor = model.tensor("model.layers.1.mlp.down_proj.weight");
            tensor.shape.reverse();
        },
        &[
            "model.layers.1.mlp.down_proj.weight",
            "found [70, 20]",
            "expected [20, 70]",
        ],
    );
    refused_model(
        |model| model.tensor(NORM).dtype = "I32".to_owned(),
        &[FILE, NORM, "found I32", "F32, F16 or BF16"],
    );
    refused_model(
        |model| {
            drop(
                model
                    .tensors
                    .remove("model.layers.1.self_attn.k_proj.weight"),
            )
        },
        &[
            "model.layers.1.self_attn.k_proj.weight",
            "found nothing",
            "[12, 20]",
        ],
    );
    refused_model(
        |model| model.config["vocab_size"] = 14.into(),
        &["model.embed_tokens.weight", "[13, 20]", "[14, 20]"],
    );
}

#[test]
fn a_bias_that_nobody_would_add_is_refused() {
    refused_model(
        |model| model.config["mlp_bias"] = false.into(),
        &["model.layers.0.mlp.gate_proj.bias", "none by config.json"],
    );
    let mut model = tiny();
    model.config["attention_bias"] = false.into();
    assert_refused(
        open(model.write().path()),
        LoadErrorKind::Invalid,
        &["q_proj.bias"],
    );
}

/// A golden model that can be spoiled.
fn golden(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).expect("a golden's file");
    let bytes = read(FILE);
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let raw = |view: &TensorView<'_>| RawTensor {
        dtype: format!("{:?}", view.dtype()),
        shape: view.shape().iter().map(|&size| size as u64).collect(),
        data: view.data().to_vec(),
    };
    let tensors = tensors.tensors();
    Model {
        config: serde_json::from_slice(&read("config.json")).expect("JSON"),
        tensors: tensors
            .iter()
            .map(|(name, view)| (name.clone(), raw(view)))
            .collect(),
        tokenizer: None,
    }
}

#[test]
fn opts_tensors_are_checked_by_name() {
    let refused = |change: &dyn Fn(&mut Model), parts: &[&str]| {
        let mut model = golden("opt-post-norm-project");
        change(&mut model);
        assert_refused(open(model.write().path()), LoadErrorKind::Invalid, parts);
    };
    for name in [
        "embed_tokens.weight",
        "embed_positions.weight",
        "project_in.weight",
        "project_out.weight",
        "layers.1.self_attn_layer_norm.weight",
        "layers.1.final_layer_norm.bias",
        "layers.0.self_attn.out_proj.bias",
        "layers.0.fc1.weight",
    ] {
        let name = format!("model.decoder.{name}");
        let remove = |model: &mut Model| drop(model.tensors.remove(&name).expect("there"));
        refused(&remove, &[&name, "found nothing"]);
    }
    // Without the two rows before position 0.
    let shorter = |model: &mut Model| model.config["max_position_embeddings"] = json!(148);
    let positions = "model.decoder.embed_positions.weight";
    refused(&shorter, &[positions, "[152, 40]", "[150, 40]"]);
    let integers = |model: &mut Model| {
        model.tensor("model.decoder.project_in.weight").dtype = "I32".to_owned();
    };
    refused(&integers, &["model.decoder.project_in.weight", "I32"]);
    // What would be added if the config did not say otherwise.
    let without = |model: &mut Model| model.config["enable_bias"] = json!(false);
    refused(&without, &["self_attn.q_proj.bias", "none by config.json"]);
}

#[test]
fn opts_names_begin_with_model_or_with_decoder() {
    let short = golden("opt-bare");
    assert!(short.tensors.contains_key("decoder.layers.0.fc1.weight"));
    let mut long = short.clone();
    long.tensors = std::mem::take(&mut long.tensors)
        .into_iter()
        .map(|(name, raw)| match name.starts_with("decoder.") {
            true => (format!("model.{name}"), raw),
            false => (name, raw),
        })
        .collect();
    let opened = [short.write(), long.write()].map(|folder| {
        let checkpoint = open(folder.path()).expect("valid");
        let name = "model.decoder.layers.1.fc2.weight";
        block_on(checkpoint.read_f32(name, 0, 28 * 45)).expect("there")
    });
    assert_eq!(opened[0], opened[1]);
    // Half of each kind is no model: what is missing is missed by its whole name.
    let mut mixed = short;
    let raw = mixed.tensors.remove("decoder.layers.0.fc1.weight");
    let raw = raw.expect("there");
    mixed
        .tensors
        .insert("model.decoder.layers.0.fc1.weight".to_owned(), raw);
    assert_refused(
        open(mixed.write().path()),
        LoadErrorKind::Invalid,
        &["model.decoder.embed_tokens.weight", "found nothing"],
    );
}

#[test]
fn a_data_type_that_nobody_reads_is_no_reason_to_refuse_the_file() {
    let mut model = tiny();
    let raw = |dtype: &str, shape: &[u64], len| RawTensor {
        dtype: dtype.to_owned(),
        shape: shape.to_vec(),
        data: vec![0; len],
    };
    model
        .tensors
        .insert("rotary.inv_freq".to_owned(), raw("F64", &[3], 24));
    model
        .tensors
        .insert("future".to_owned(), raw("F3_E1M1", &[5], 2));
    let folder = model.write();
    let checkpoint = open(folder.path()).expect("valid");
    assert_eq!(checkpoint.tensors["future"].dtype.to_string(), "F3_E1M1");
    let read = block_on(checkpoint.read_f32("future", 0, 1));
    assert_refused(
        read,
        LoadErrorKind::Invalid,
        &[FILE, "'future'", "found F3_E1M1", "F32, F16 or BF16"],
    );
    // A known one still has to fit its shape.
    refused_model(
        |model| drop(model.tensors.insert("x".to_owned(), raw("F64", &[3], 12))),
        &["'x'", "found 12 bytes", "expected 24 (F64 [3])"],
    );
}

#[test]
fn a_shard_that_is_missing_or_elsewhere_is_refused() {
    let folder = tiny().write_shards(|_| {});
    std::fs::remove_file(folder.path().join(shard_name(1))).expect("removed");
    let parts = [
        &shard_name(1),
        "not found",
        "model.safetensors.index.json names it",
    ];
    assert_refused(open(folder.path()), LoadErrorKind::NotFound, &parts);

    for outside in [
        "../weights.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        "c:x",
    ] {
        let folder = tiny().write_shards(|index| index["weight_map"][NORM] = outside.into());
        let parts = [
            "model.safetensors.index.json",
            NORM,
            &format!("'{outside}'"),
            "inside the folder",
        ];
        assert_refused(open(folder.path()), LoadErrorKind::Invalid, &parts);
    }
}

#[test]
fn an_index_that_does_not_match_its_shards_is_refused() {
    let folder = tiny().write_shards(|index| {
        let other = if index["weight_map"][NORM] == shard_name(0) {
            1
        } else {
            0
        };
        index["weight_map"][NORM] = shard_name(other).into();
    });
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &["model-0000", NORM, "found nothing"],
    );

    let folder = tiny().write_shards(|index| index["weight_map"] = json!(["a"]));
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &["model.safetensors.index.json", "weight_map"],
    );
    let folder = tiny().write_shards(|index| index["weight_map"][NORM] = 3.into());
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &["model.safetensors.index.json", NORM],
    );
}

#[test]
fn no_flipped_byte_makes_the_reader_panic() {
    let model = tiny();
    let whole = safetensors(&model.tensors);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    let folder = model.write();
    let mut rng = Rng::new(11);
    let (mut refused, trials) = (0, 500);
    for _ in 0..trials {
        let mut spoiled = whole.clone();
        let at = rng.next_u32() as usize % header;
        spoiled[at] ^= 1 << (rng.next_u32() % 8);
        write(folder.path(), FILE, &spoiled);
        match open(folder.path()) {
            Ok(_) => {}
            Err(error) => {
                refused += 1;
                crate::files::assert_message(&error, &[]);
            }
        }
    }
    assert!(refused > trials * 9 / 10, "{refused} of {trials}");
}
