//! Rounding to nearest into a checkpoint and while loading: the same integers, so the same logits.

use plateau::checkpoint::{ActivationScale, DEFAULT_SHARD_BYTES, LinearFormat};
use plateau::exec::Executor;
use plateau::session::LoadOptions;
use plateau::tensor::{Bits, Granularity, Quant};
use plateau_tests::model;

#[test]
fn a_rounded_checkpoint_computes_what_rounding_while_loading_does() {
    pollster::block_on(async {
        for (quant, weights, activations) in [
            (Quant::W8A8, Bits::Int8, Bits::Int8),
            (Quant::W4A8, Bits::Int4, Bits::Int8),
            (Quant::W4A4, Bits::Int4, Bits::Int4),
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
