//! Rounding to nearest into a checkpoint and while loading, and widths that are expanded: the same integers, so the same logits.
//! With float activations: the logits of a float model with the values of the integers.

use plateau::checkpoint::{
    ActivationFormat, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, Folder,
    LinearFormat, NewTensor, QuantizationConfig, TABLE_FORMAT,
};
use plateau::exec::Executor;
use plateau::session::LoadOptions;
use plateau::tensor::{Bits, Granularity, Quant, WeightBits};
use plateau_shaders::pack;
use plateau_tests::model;
use plateau_tests::tolerance::QUANTIZED_HEAD;
use std::path::Path;

/// The checkpoint that rounding `float` to `format` makes in `out`.
async fn rounded(float: &Checkpoint, format: LinearFormat, out: &Path) -> Checkpoint {
    let done = model::round_to_nearest(float, out, format, DEFAULT_SHARD_BYTES, &mut |_| {}).await;
    done.unwrap_or_else(|error| panic!("{}: {error}", float.folder.name()));
    model::open(out).await
}

fn ids(float: &Checkpoint) -> Vec<u32> {
    let vocab = float.config.vocab_size;
    (0..21).map(|i| (i * i + 5) % vocab).collect()
}

#[test]
fn a_rounded_checkpoint_computes_what_rounding_while_loading_does() {
    pollster::block_on(async {
        for (quant, weights, activations) in [
            (Quant::W8A8, WeightBits::Int8, Bits::Int8),
            (Quant::W4A8, WeightBits::Int4, Bits::Int8),
            (Quant::W4A4, WeightBits::Int4, Bits::Int4),
        ] {
            let format = LinearFormat {
                weight_bits: weights,
                weight_scale: Granularity::PerChannel,
                group_size: 0,
                activations: ActivationFormat::Dynamic(activations),
            };
            for folder in model::goldens() {
                let what = format!("{} {quant}", folder.display());
                let float = model::open(&folder).await;
                let ids = ids(&float);
                let out = tempfile::tempdir().expect("a folder");
                let rounded = rounded(&float, format, out.path()).await;
                for (name, [rows, columns]) in rounded.config.float_matrices() {
                    let name = format!("{name}.weight");
                    let len = (rows * columns) as usize;
                    let values = rounded.read_f32(&name, 0, len).await.expect("a matrix");
                    let expected = float.read_f32(&name, 0, len).await.expect("a matrix");
                    assert_eq!(values, expected, "{what}: {name}");
                }
                let mut logits = Vec::new();
                for (checkpoint, quant) in [(&float, Some(quant)), (&rounded, None)] {
                    let options = LoadOptions {
                        quant,
                        ..LoadOptions::default()
                    };
                    let mut session = model::load(checkpoint, Executor::twin(), &options).await;
                    logits.push(model::logits(&mut session, &ids, None).await);
                }
                assert!(
                    logits[0].iter().any(|logit| logit.abs() > 1.0),
                    "{what}: trivial"
                );
                assert!(logits[0] == logits[1], "{what}: the logits differ");
            }
        }
    });
}

/// The same integers in a checkpoint of INT8.
async fn as_int8(checkpoint: &Checkpoint, format: LinearFormat, out: &Path) {
    let int8 = LinearFormat {
        weight_bits: WeightBits::Int8,
        ..format
    };
    let linears = checkpoint.config.linears();
    let mut tensors = Vec::new();
    let mut contents = Vec::new();
    for (name, info) in &checkpoint.tensors {
        let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let linear = linears.iter().find(|linear| linear.name == stem);
        let (shape, bytes) = match linear {
            Some(_) if name.ends_with(".qweight_high") => continue,
            Some(linear) if name.ends_with(".qweight") => {
                let rows = linear.out_features as usize;
                let read = async |suffix: &str, row_words: u32| {
                    let len = row_words as usize * rows;
                    let name = format!("{stem}.{suffix}");
                    checkpoint.read_u32(&name, 0, len).await.expect("words")
                };
                let row_words = format.row_words(linear.in_features);
                let high_words = format.high_row_words(linear.in_features);
                let low = read("qweight", row_words).await;
                let high = read("qweight_high", high_words).await;
                let rows_low = low.chunks_exact(row_words as usize);
                let rows_high = high.chunks_exact(high_words as usize);
                let words = rows_low.zip(rows_high).flat_map(|(low, high)| {
                    let integers = model::integers(low, high, format.weight_bits);
                    let row: Vec<i8> = integers.iter().map(|&w| w as i8).collect();
                    pack::pack_i8(&row)
                });
                let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
                let columns = int8.row_words(linear.in_features);
                (vec![rows as u64, columns.into()], bytes)
            }
            _ => {
                let mut bytes = vec![0; info.bytes as usize];
                checkpoint
                    .read(name, 0, &mut bytes)
                    .await
                    .expect("a tensor");
                (info.shape.clone(), bytes)
            }
        };
        tensors.push(NewTensor {
            name: name.clone(),
            dtype: if name.ends_with(".qweight") {
                Dtype::U32
            } else {
                info.dtype
            },
            shape,
        });
        contents.push((name, bytes));
    }
    let mut writer =
        CheckpointWriter::create(out, tensors, DEFAULT_SHARD_BYTES).expect("an empty folder");
    for (name, bytes) in contents {
        writer.append(name, &bytes).expect("written");
    }
    let quantization = QuantizationConfig::new("int8", int8);
    let config = checkpoint.config_with(&quantization).await;
    writer
        .finish(&config.expect("a config"))
        .expect("a whole checkpoint");
}

#[test]
fn int5_and_int6_compute_what_int8_with_their_integers_does() {
    pollster::block_on(async {
        for weight_bits in [WeightBits::Int5, WeightBits::Int6] {
            let format = LinearFormat {
                weight_bits,
                weight_scale: Granularity::PerChannel,
                group_size: 0,
                activations: ActivationFormat::Dynamic(Bits::Int8),
            };
            for folder in model::goldens() {
                let what = format!("{} {weight_bits:?}", folder.display());
                let float = model::open(&folder).await;
                let ids = ids(&float);
                let out = tempfile::tempdir().expect("a folder");
                let rounded = rounded(&float, format, out.path()).await;
                let wide = tempfile::tempdir().expect("a folder");
                as_int8(&rounded, format, wide.path()).await;
                let wide = model::open(wide.path()).await;
                let mut logits = Vec::new();
                for checkpoint in [&rounded, &wide] {
                    let options = LoadOptions::default();
                    let mut session = model::load(checkpoint, Executor::twin(), &options).await;
                    logits.push(model::logits(&mut session, &ids, None).await);
                }
                assert!(
                    logits[0].iter().any(|logit| logit.abs() > 1.0),
                    "{what}: trivial"
                );
                assert!(logits[0] == logits[1], "{what}: the logits differ");
            }
        }
    });
}

/// A float checkpoint whose weights are what the integers of a quantized one stand for.
async fn as_float(float: &Checkpoint, quantized: &Checkpoint, format: LinearFormat, out: &Path) {
    let mut matrices = Vec::new();
    for linear in float.config.linears() {
        matrices.push((linear.name, linear.in_features, linear.out_features, format));
    }
    for table in float.config.tables() {
        let (columns, rows) = (float.config.embedding_size(), float.config.vocab_size);
        matrices.push(((*table).to_owned(), columns, rows, TABLE_FORMAT));
    }
    let (mut tensors, mut contents) = (Vec::new(), Vec::new());
    for (name, info) in &float.tensors {
        let stem = name.strip_suffix(".weight").unwrap_or("");
        let matrix = matrices.iter().find(|(matrix, ..)| matrix == stem);
        let values = match matrix {
            None => {
                let len = info.elements() as usize;
                float.read_f32(name, 0, len).await.expect("a tensor")
            }
            Some((_, columns, rows, format)) => {
                let read = async |suffix: &str, row_words: u32| {
                    let len = (row_words * rows) as usize;
                    let name = format!("{stem}.{suffix}");
                    quantized.read_u32(&name, 0, len).await.expect("words")
                };
                let words = read("qweight", format.row_words(*columns)).await;
                let per_row = format.multiplier_words(*columns) as usize;
                let multipliers = match per_row {
                    0 => Vec::new(),
                    _ => read("multipliers", per_row as u32).await,
                };
                let scales = quantized
                    .read_scales(&format!("{stem}.scales"), *rows as usize)
                    .await
                    .expect("scales");
                let row_words = format.row_words(*columns) as usize;
                let rows = words.chunks_exact(row_words).enumerate();
                rows.flat_map(|(row, words)| {
                    let integers = model::integers(words, &[], format.weight_bits);
                    let step = |feature: usize| {
                        let group = (feature as u32).checked_div(format.group_size);
                        let multipliers = &multipliers[row * per_row..];
                        let multiplier = group.map_or(1, |group| {
                            1 + (multipliers[group as usize / 8] >> (4 * (group % 8)) & 15)
                        });
                        f64::from(scales[row]) * f64::from(multiplier)
                    };
                    let value = |feature: usize| f64::from(integers[feature]) * step(feature);
                    let values = (0..*columns as usize).map(|feature| value(feature) as f32);
                    values.collect::<Vec<f32>>()
                })
                .collect()
            }
        };
        tensors.push(NewTensor {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: info.shape.clone(),
        });
        contents.push((name, values));
    }
    let mut writer =
        CheckpointWriter::create(out, tensors, DEFAULT_SHARD_BYTES).expect("an empty folder");
    for (name, values) in contents {
        writer.append_f32(name, &values).expect("written");
    }
    let config = std::fs::read_to_string(folder_of(float).join("config.json")).expect("a config");
    let config = serde_json::from_str(&config).expect("JSON");
    writer.finish(&config).expect("a whole checkpoint");
}

fn folder_of(checkpoint: &Checkpoint) -> &Path {
    match &checkpoint.folder {
        Folder::Disk(path) => path,
        Folder::Embedded { .. } => panic!("a golden lies in a folder"),
    }
}

#[test]
fn float_activations_meet_the_values_of_the_weights() {
    pollster::block_on(async {
        for (weight_bits, group_size) in [(WeightBits::Int4, 32), (WeightBits::Int8, 0)] {
            let format = LinearFormat {
                weight_bits,
                weight_scale: Granularity::PerChannel,
                group_size,
                activations: ActivationFormat::Float,
            };
            for folder in model::goldens() {
                let what = format!("{} {weight_bits:?}", folder.display());
                let float = model::open(&folder).await;
                let ids = ids(&float);
                let [out, values] = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
                let rounded = rounded(&float, format, out.path()).await;
                as_float(&float, &rounded, format, values.path()).await;
                let values = model::open(values.path()).await;
                let mut logits = Vec::new();
                for (checkpoint, quant) in [(&rounded, None), (&values, Some(Quant::F32))] {
                    let options = LoadOptions {
                        quant,
                        ..model::f32_options()
                    };
                    let mut session = model::load(checkpoint, Executor::twin(), &options).await;
                    logits.push(model::logits(&mut session, &ids, None).await);
                }
                // What is left is that the head's inputs are INT8.
                let [found, expected] = [&logits[0], &logits[1]];
                let largest = expected.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    let error = f64::from((found - expected).abs() / largest);
                    assert!(
                        error <= QUANTIZED_HEAD.relative,
                        "{what}: {found} {expected}"
                    );
                }
            }
        }
    });
}
