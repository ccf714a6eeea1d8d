//! A sequence's logits do not depend on company: not on chunking, prefill or decode, nor on what else is in the batch.

use plateau::exec::{AttentionChoice, Executor, GpuOptions, KernelChoice};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Row, Session};
use plateau::tensor::{KvType, Quant};
use plateau_tests::device::{self, Effort};
use plateau_tests::model;
use std::ops::ControlFlow;

/// The twins, every adapter, and again those that have other kernels for many rows when all that they report is used.
async fn executors() -> Vec<Executor> {
    let whole = device::devices(GpuOptions::default()).await;
    std::iter::once(Executor::twin())
        .chain(device::portable_devices().await)
        .chain(
            whole
                .into_iter()
                .filter(|device| device.features().gemms.matrices().is_some()),
        )
        .collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|value| value.to_bits()).collect()
}

fn options(quant: Option<Quant>, kv_type: KvType) -> LoadOptions {
    LoadOptions {
        quant,
        kv_type,
        max_sequences: 3,
        ..LoadOptions::default()
    }
}

/// The modes of a session. The first two share the fewest kernels: they are what a device of [`Effort::Reduced`] gets.
const MODES: [(Quant, KvType); 5] = [
    (Quant::F32, KvType::F32),
    (Quant::W4A8, KvType::I8),
    (Quant::F16, KvType::F16),
    (Quant::W8A8, KvType::I8),
    (Quant::W4A4, KvType::F16),
];
const REDUCED_MODES: usize = 2;

/// Whether a device is given mode number `mode` of golden number `golden`; says what it is not given, once.
fn is_given(executor: &Executor, golden: usize, mode: usize) -> bool {
    match device::effort(executor) {
        Effort::Whole => true,
        Effort::Reduced => {
            if (golden, mode) == (0, 0) {
                let what = format!(
                    "models but the first golden, and modes but the first {REDUCED_MODES} of {}",
                    MODES.len()
                );
                device::say_left_out(executor.name(), &what);
            }
            golden == 0 && mode < REDUCED_MODES
        }
    }
}

/// Sessions of every golden in every mode on each executor, and of the built-in model.
async fn each_session(test: impl AsyncFn(&str, &mut Session, &[u32])) {
    for (golden, folder) in model::goldens().into_iter().enumerate() {
        let checkpoint = model::open(&folder).await;
        let ids: Vec<u32> = (0..75)
            .map(|i| (i * i + 3) % checkpoint.config.vocab_size)
            .collect();
        for (mode, (quant, kv_type)) in MODES.into_iter().enumerate() {
            for executor in executors().await {
                if !is_given(&executor, golden, mode) {
                    continue;
                }
                let what = format!("{} {quant} on {}", folder.display(), executor.name());
                let mut session =
                    model::load(&checkpoint, executor, &options(Some(quant), kv_type)).await;
                test(&what, &mut session, &ids).await;
            }
        }
    }
    let checkpoint = model::builtin().await;
    let ids: Vec<u32> = (0..75)
        .map(|i| (i * i * 7 + 3) % checkpoint.config.vocab_size)
        .collect();
    for executor in executors().await {
        // Minutes for each test, and `bisect` runs the model there.
        if device::effort(&executor) == Effort::Reduced {
            continue;
        }
        let what = format!("built-in model on {}", executor.name());
        let mut session = model::load(&checkpoint, executor, &options(None, KvType::F16)).await;
        test(&what, &mut session, &ids).await;
    }
}

#[test]
fn logits_do_not_depend_on_chunking() {
    pollster::block_on(each_session(async |what, session, ids| {
        let whole = bits(&model::logits(session, ids, None).await);
        for chunk in [1, 5, 8, 9, 64] {
            let chunked = bits(&model::logits(session, ids, Some(chunk)).await);
            assert!(
                chunked == whole,
                "{what}: chunks of {chunk} rows give other bits"
            );
        }
    }));
}

#[test]
fn logits_do_not_depend_on_company() {
    pollster::block_on(each_session(async |what, session, ids| {
        let vocab = session.config().vocab_size as usize;
        let (a, b) = (&ids[..70], &ids[70..]);
        let alone_a = bits(&model::logits(session, a, None).await);
        let alone_b = bits(&model::logits(session, b, None).await);
        session.reset(0);
        // Both prompts in one step, of other sequences than before and shuffled together; then one token more of each.
        let row = |sequence: u32, position: usize, token: u32| Row {
            sequence,
            position: position as u32,
            token,
        };
        let last_a = a.len() - 1;
        let mut rows: Vec<Row> = a[..40]
            .iter()
            .enumerate()
            .map(|(p, &id)| row(2, p, id))
            .collect();
        rows.extend(b[..4].iter().enumerate().map(|(p, &id)| row(1, p, id)));
        rows.extend(
            a[40..last_a]
                .iter()
                .enumerate()
                .map(|(p, &id)| row(2, 40 + p, id)),
        );
        let together = session
            .step(&rows, &[39, 43, 44 + 28])
            .await
            .expect("a step");
        let expected = [
            &alone_a[39 * vocab..][..vocab],
            &alone_b[3 * vocab..][..vocab],
            &alone_a[68 * vocab..][..vocab],
        ];
        assert!(
            bits(&together) == expected.concat(),
            "{what}: a mixed prefill gives other bits"
        );
        let rows = [row(1, 4, b[4]), row(2, last_a, a[last_a])];
        let together = session.step(&rows, &[0, 1]).await.expect("a step");
        let expected = [
            &alone_b[4 * vocab..][..vocab],
            &alone_a[last_a * vocab..][..vocab],
        ];
        assert!(
            bits(&together) == expected.concat(),
            "{what}: a mixed decode gives other bits"
        );
        session.reset(1);
        session.reset(2);
    }));
}

#[test]
fn two_sequences_decode_in_one_batch_as_they_do_alone() {
    pollster::block_on(each_session(async |what, session, ids| {
        let sampled = SamplerConfig {
            temperature: 0.9,
            top_k: 50,
            repeat_penalty: 1.1,
            seed: 7,
            ..SamplerConfig::GREEDY
        };
        for sampler in [SamplerConfig::GREEDY, sampled] {
            let prompts = [&ids[..66], &ids[3..8]];
            session.fix_steps(Some(1));
            // A draw depends on the sequence's number, so the second prompt is compared greedily only.
            let alone = [
                generate(session, prompts[0], &sampler).await,
                generate(session, prompts[1], &sampler).await,
            ];
            let mut together = [Vec::new(), Vec::new()];
            // Five steps a submission, then what is left of twelve.
            session.fix_steps(Some(5));
            session
                .generate_batch(&prompts, &sampler, Some(12), &mut |sequence, id| {
                    together[sequence].push(id);
                    // The second one ends earlier; the first goes on without it.
                    if sequence == 1 && together[1].len() == 5 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .await
                .expect("two prompts");
            assert_eq!(together[0], alone[0], "{what}");
            assert_eq!(together[1].len(), 5, "{what}");
            if sampler == SamplerConfig::GREEDY {
                assert_eq!(together[1], alone[1][..5], "{what}");
            }
        }
    }));
}

async fn generate(session: &mut Session, prompt: &[u32], sampler: &SamplerConfig) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut take = |id| {
        ids.push(id);
        ControlFlow::Continue(())
    };
    session
        .generate(prompt, sampler, Some(12), &mut take)
        .await
        .expect("a prompt");
    ids
}

#[test]
fn weights_split_over_buffers_give_the_same_bits() {
    pollster::block_on(async {
        for (golden, folder) in model::goldens().into_iter().take(2).enumerate() {
            let checkpoint = model::open(&folder).await;
            let ids: Vec<u32> = (0..20).collect();
            for (mode, (quant, _)) in MODES.into_iter().enumerate() {
                for (whole, split) in executors().await.into_iter().zip(executors().await) {
                    if !is_given(&whole, golden, mode) {
                        continue;
                    }
                    let options = options(Some(quant), KvType::F16);
                    let mut session = model::load(&checkpoint, whole, &options).await;
                    let buffers = session.parts().0.shared.descs.len();
                    let expected = bits(&model::logits(&mut session, &ids, None).await);
                    // Some rows of the smallest linear fit; every table and linear is cut.
                    let small = LoadOptions {
                        max_weight_bytes: Some(2000),
                        ..options
                    };
                    let mut session = model::load(&checkpoint, split, &small).await;
                    assert!(
                        session.parts().0.shared.descs.len() > buffers + 10,
                        "the weights were not split"
                    );
                    let found = bits(&model::logits(&mut session, &ids, None).await);
                    assert!(
                        found == expected,
                        "{} {quant}: split weights give other bits",
                        folder.display()
                    );
                }
            }
        }
    });
}

#[test]
fn decoded_tokens_share_their_submissions() {
    pollster::block_on(async {
        const TOKENS: usize = 9;
        for device in device::portable_devices().await {
            let checkpoint = model::builtin().await;
            let mut session = model::load(&checkpoint, device, &LoadOptions::default()).await;
            let mut given = Vec::new();
            for (steps, expected) in [(1, 9), (4, 3)] {
                session.fix_steps(Some(steps));
                let before = submissions(&mut session);
                given.push(model::greedy(&mut session, &[1], TOKENS).await);
                assert_eq!(submissions(&mut session) - before, expected);
            }
            assert_eq!(given[0].len(), TOKENS);
            assert_eq!(given[0], given[1]);
        }
    });
}

fn submissions(session: &mut Session) -> u64 {
    match session.parts().1 {
        Executor::Gpu(gpu) => gpu.submissions(),
        Executor::Cpu(_) => unreachable!("a GPU was opened"),
    }
}

#[test]
fn kernels_for_better_adapters_change_no_bit() {
    pollster::block_on(async {
        let checkpoint = model::builtin().await;
        let ids: Vec<u32> = (0..9).map(|i| 3 + i * 101).collect();
        let options = |kernels, few_registers| GpuOptions {
            kernels,
            // Attention on matrices has bits of its own, in prefill and decode alike.
            attention: AttentionChoice::Portable,
            few_registers,
            ..GpuOptions::default()
        };
        let better = device::devices(options(KernelChoice::Auto, false)).await;
        let few = device::devices(options(KernelChoice::F32, true)).await;
        let others = better.into_iter().zip(few);
        for (portable, (better, few)) in device::portable_devices().await.into_iter().zip(others) {
            let mut logits = Vec::new();
            for device in [portable, better, few] {
                let mut session = model::load(&checkpoint, device, &LoadOptions::default()).await;
                let mut found = Vec::new();
                for chunk in [Some(1), Some(4), None] {
                    found.extend(bits(&model::logits(&mut session, &ids, chunk).await));
                }
                logits.push(found);
            }
            assert!(logits[0] == logits[1], "the logits differ");
            assert!(
                logits[0] == logits[2],
                "with GEMMs in f32 and few registers the logits differ"
            );
        }
    });
}
