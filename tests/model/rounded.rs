//! Rounding to nearest into a checkpoint and while loading, and widths that are expanded: the same integers, so the same logits.

use plateau::checkpoint::{
    ActivationScale, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, LinearFormat,
    NewTensor, QuantizationConfig,
};
use plateau::exec::Executor;
use plateau::session::LoadOptions;
use plateau::tensor::{Bits, Granularity, Quant, WeightBits};
use plateau_shaders::pack;
use plateau_tests::model;
use std::path::Path;

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
                activation_bits: activations,
                activation_scale: ActivationScale::Dynamic,
            };
            for folder in model::goldens() {
                let what = format!("{} {quant}", folder.display());
                let float = model::open(&folder).await;
                let ids: Vec<u32> = (0..21)
                    .map(|i| (i * i + 5) % float.config.vocab_size)
                    .collect();
                let out = tempfile::tempdir().expect("a folder");
                let rounded = model::round_to_nearest(
                    &float,
                    out.path(),
                    format,
                    DEFAULT_SHARD_BYTES,
                    &mut |_| {},
                )
                .await;
                rounded.unwrap_or_else(|error| panic!("{what}: {error}"));
                let rounded = model::open(out.path()).await;
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
                activation_bits: Bits::Int8,
                activation_scale: ActivationScale::Dynamic,
            };
            for folder in model::goldens() {
                let what = format!("{} {weight_bits:?}", folder.display());
                let float = model::open(&folder).await;
                let ids: Vec<u32> = (0..21)
                    .map(|i| (i * i + 5) % float.config.vocab_size)
                    .collect();
                let out = tempfile::tempdir().expect("a folder");
                let rounded = model::round_to_nearest(
                    &float,
                    out.path(),
                    format,
                    DEFAULT_SHARD_BYTES,
                    &mut |_| {},
                )
                .await;
                rounded.unwrap_or_else(|error| panic!("{what}: {error}"));
                let rounded = model::open(out.path()).await;
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
