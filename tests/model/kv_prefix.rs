//! Keys and values stored in a checkpoint, for sequences that begin with certain tokens.

use super::flattened::{self, Style};
use plateau::checkpoint::{
    ActivationFormat, Checkpoint, CheckpointWriter, DEFAULT_SHARD_BYTES, Dtype, KvPrefix,
    LinearFormat, NewTensor,
};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Row, Session};
use plateau::tensor::{Bits, Granularity, KvType, WeightBits};
use plateau_shaders::PAGE_SIZE;
use plateau_tests::{Rng, device, model};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const W8: LinearFormat = LinearFormat {
    weight_bits: WeightBits::Int8,
    weight_scale: Granularity::PerChannel,
    group_size: 0,
    activations: ActivationFormat::Dynamic(Bits::Int8),
};

/// A golden, rounded.
async fn rounded(golden: &Path) -> (TempDir, Checkpoint) {
    let float = model::open(golden).await;
    let folder = tempfile::tempdir().expect("a folder");
    let done =
        model::round_to_nearest(&float, folder.path(), W8, DEFAULT_SHARD_BYTES, &mut |_| {}).await;
    done.unwrap_or_else(|error| panic!("{error}"));
    let checkpoint = model::open(folder.path()).await;
    (folder, checkpoint)
}

fn named<const N: usize>(names: [&str; N]) -> Vec<PathBuf> {
    let is_named = |golden: &PathBuf| names.iter().any(|name| golden.ends_with(name));
    let found: Vec<PathBuf> = model::goldens().into_iter().filter(is_named).collect();
    assert_eq!(found.len(), names.len(), "{names:?}");
    found
}

/// A golden with integer weights, and inputs whose scale is known before.
async fn with_static_inputs(golden: &Path) -> (TempDir, Checkpoint) {
    let float = model::open(golden).await;
    let folder = flattened::written(&float, |_| Style::new(Bits::Int4, 18)).await;
    let checkpoint = model::open(folder.path()).await;
    (folder, checkpoint)
}

/// Keys and values of a layer, [tokens, kv_heads * head_dim] each.
type LayerPrefix = [Vec<f32>; 2];

/// `plain` with a stored prefix.
async fn with_prefix(
    plain: &Checkpoint,
    tokens: &[u32],
    layers: &[LayerPrefix],
) -> (TempDir, Checkpoint) {
    let mut tensors: Vec<(NewTensor, Vec<u8>)> = Vec::new();
    for (name, info) in &plain.tensors {
        let mut bytes = vec![0; info.bytes as usize];
        plain.read(name, 0, &mut bytes).await.expect("a tensor");
        let tensor = NewTensor {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
        };
        tensors.push((tensor, bytes));
    }
    for (layer, values) in (0..).zip(layers) {
        for (name, values) in plain
            .config
            .kv_prefix_tensors(layer)
            .into_iter()
            .zip(values)
        {
            let shape = vec![tokens.len() as u64, (values.len() / tokens.len()) as u64];
            let tensor = NewTensor {
                name,
                dtype: Dtype::F32,
                shape,
            };
            tensors.push((tensor, bytemuck::cast_slice(values).to_vec()));
        }
    }
    let mut quantization = plain.quantization.clone().expect("a quantized checkpoint");
    quantization.kv_prefix = Some(KvPrefix {
        tokens: tokens.to_vec(),
    });
    let config = plain.config_with(&quantization).await.expect("a config");
    let folder = tempfile::tempdir().expect("a folder");
    let (tensors, bytes): (Vec<NewTensor>, Vec<Vec<u8>>) = tensors.into_iter().unzip();
    let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let writer = CheckpointWriter::create(folder.path(), tensors, DEFAULT_SHARD_BYTES);
    let mut writer = writer.expect("a folder");
    for (name, bytes) in names.iter().zip(&bytes) {
        writer.append(name, bytes).expect("room on the disk");
    }
    writer.finish(&config).expect("room on the disk");
    let checkpoint = model::open(folder.path()).await;
    (folder, checkpoint)
}

/// Noise of the size of keys and values, so that nobody takes them for computed ones.
fn noise(checkpoint: &Checkpoint, tokens: usize) -> Vec<LayerPrefix> {
    let config = &checkpoint.config;
    let len = tokens * (config.num_key_value_heads * config.head_dim) as usize;
    let mut rng = Rng::new(5);
    (0..config.num_hidden_layers)
        .map(|_| [rng.floats(len, 2.0), rng.floats(len, 2.0)])
        .collect()
}

/// What sequence 0 has in its f32 cache at positions 0..tokens.
async fn cached(session: &mut Session, tokens: usize) -> Vec<LayerPrefix> {
    let (model, executor) = session.parts();
    let (kv_heads, head_dim) = (
        model.config.num_key_value_heads as usize,
        model.config.head_dim as usize,
    );
    let table = executor.read(None, model.step.block_table, 0..1);
    let page = table.await.expect("a page")[0] as usize;
    let mut layers = Vec::new();
    for pools in model.kv_pools.clone() {
        let mut layer = Vec::new();
        for pool in [pools.k, pools.v] {
            let words = (kv_heads * PAGE_SIZE as usize * head_dim) as u64;
            let first = page as u64 * words;
            let words = executor.read(None, pool, first..first + words);
            let words: Vec<f32> = bytemuck::cast_vec(words.await.expect("a page"));
            let row = |position: usize, head: usize| {
                &words[(head * PAGE_SIZE as usize + position) * head_dim..][..head_dim]
            };
            let rows = (0..tokens).flat_map(|t| (0..kv_heads).flat_map(move |h| row(t, h)));
            layer.push(rows.copied().collect::<Vec<f32>>());
        }
        let [k, v] = layer.try_into().expect("keys and values");
        layers.push([k, v]);
    }
    layers
}

fn options(kv_type: KvType) -> LoadOptions {
    LoadOptions {
        kv_type,
        max_sequences: 3,
        max_rows: Some(64),
        ..LoadOptions::default()
    }
}

fn row(sequence: u32, position: usize, token: u32) -> Row {
    Row {
        sequence,
        position: position as u32,
        token,
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|value| value.to_bits()).collect()
}

/// The rest of a prompt whose first tokens are `start`.
fn prompt(start: &[u32], len: usize, vocab: u32) -> Vec<u32> {
    let rest = (start.len() as u32..len as u32).map(|i| (i * i * 7 + 11) % vocab);
    start.iter().copied().chain(rest).collect()
}

/// What a session computes for the first tokens itself, stored, changes nothing.
#[test]
fn a_prefix_of_the_models_own_keys_and_values_changes_no_bit() {
    pollster::block_on(async {
        for (case, golden) in model::goldens().into_iter().enumerate() {
            let (_folder, plain) = rounded(&golden).await;
            let tokens = [1, 9, 4];
            let ids = prompt(&tokens, 75, plain.config.vocab_size);
            let first = device::for_case(case).await;
            let second = device::for_case(case).await;
            for (executor, again) in first.into_iter().zip(second) {
                let what = format!("{} on {}", golden.display(), executor.name());
                let options = options(KvType::F32);
                let mut session = model::load(&plain, executor, &options).await;
                let expected = bits(&model::logits(&mut session, &ids, None).await);
                let layers = cached(&mut session, tokens.len()).await;
                let (_folder, stored) = with_prefix(&plain, &tokens, &layers).await;
                let mut session = model::load(&stored, again, &options).await;
                for chunk in [None, Some(1), Some(2), Some(7)] {
                    let found = bits(&model::logits(&mut session, &ids, chunk).await);
                    assert!(found == expected, "{what}: chunks of {chunk:?} rows");
                    assert_eq!(cached(&mut session, tokens.len()).await, layers, "{what}");
                }
            }
        }
    });
}

#[test]
fn logits_with_a_prefix_do_not_depend_on_chunks_or_company() {
    pollster::block_on(async {
        // One without a window, one with a window that leaves the prefix behind, and one with learned positions.
        let goldens = named(["llama-gqa-rope-llama3", "mistral-window", "opt-pre-norm"]);
        let modes = [
            (KvType::F32, false),
            (KvType::F16, false),
            (KvType::I8, false),
            (KvType::I8, true),
        ];
        let cases = goldens
            .iter()
            .flat_map(|golden| modes.map(|mode| (golden, mode)));
        for (case, (golden, (kv_type, is_static))) in cases.enumerate() {
            let (_folder, plain) = match is_static {
                false => rounded(golden).await,
                true => with_static_inputs(golden).await,
            };
            let vocab = plain.config.vocab_size;
            let size = vocab as usize;
            let tokens = [1, 9];
            let with = prompt(&tokens, 70, vocab);
            // The same but for the second token.
            let mut without = with.clone();
            without[1] += 1;
            let layers = noise(&plain, tokens.len());
            let (_folder, stored) = with_prefix(&plain, &tokens, &layers).await;
            let first = device::for_case(case).await;
            let second = device::for_case(case).await;
            for (executor, again) in first.into_iter().zip(second) {
                let inputs = if is_static { "static" } else { "dynamic" };
                let what = format!(
                    "{} {kv_type:?}, {inputs} inputs, on {}",
                    golden.display(),
                    executor.name()
                );
                let options = options(kv_type);
                let mut session = model::load(&plain, executor, &options).await;
                let plain_with = bits(&model::logits(&mut session, &with, None).await);
                let plain_without = bits(&model::logits(&mut session, &without, None).await);
                let mut session = model::load(&stored, again, &options).await;
                let alone = bits(&model::logits(&mut session, &with, None).await);
                // The prefix's own rows see what is computed; all others see what is stored.
                assert!(
                    alone[..2 * size] == plain_with[..2 * size],
                    "{what}: the prefix"
                );
                let mut rows = alone.chunks(size).zip(plain_with.chunks(size));
                assert!(
                    rows.nth(2).is_some_and(|(a, b)| a != b),
                    "{what}: no change"
                );
                for chunk in [1, 2, 3, 9] {
                    let found = bits(&model::logits(&mut session, &with, Some(chunk)).await);
                    assert!(found == alone, "{what}: chunks of {chunk} rows");
                    let found = bits(&model::logits(&mut session, &without, Some(chunk)).await);
                    assert!(found == plain_without, "{what}: another beginning");
                }

                // Both in one step, shuffled, with and without the logits of the prefix's rows.
                session.reset(0);
                for wanted_early in [true, false] {
                    let mut rows = Vec::new();
                    for position in 0..30 {
                        rows.push(row(2, position, with[position]));
                        rows.push(row(1, position, without[position]));
                    }
                    let mut wanted = vec![2 * 29, 2 * 5 + 1, 2 * 2];
                    if wanted_early {
                        wanted.extend([2, 1, 3, 0]);
                    }
                    let expected: Vec<u32> = wanted
                        .iter()
                        .flat_map(|&i| {
                            let of = if i % 2 == 0 { &alone } else { &plain_without };
                            of[i as usize / 2 * size..][..size].to_vec()
                        })
                        .collect();
                    let found = session.step(&rows, &wanted).await.expect("a step");
                    assert!(bits(&found) == expected, "{what}: a mixed step");
                    // One row more of each.
                    let rows = [row(1, 30, without[30]), row(2, 30, with[30])];
                    let found = session.step(&rows, &[0, 1]).await.expect("a step");
                    let expected = [&plain_without, &alone].map(|of| &of[30 * size..][..size]);
                    assert!(bits(&found) == expected.concat(), "{what}: a mixed decode");
                    session.reset(1);
                    session.reset(2);
                }

                // The prefix alone in a step, unwanted: nothing runs but the copy.
                let rows = [row(1, 0, tokens[0]), row(1, 1, tokens[1])];
                let none = session.step(&rows, &[]).await.expect("a step");
                assert!(none.is_empty());
                let rows = [row(1, 2, with[2])];
                let found = session.step(&rows, &[0]).await.expect("a step");
                assert!(
                    bits(&found) == alone[2 * size..][..size],
                    "{what}: the copy alone"
                );
                session.reset(1);
            }
        }
    });
}

/// Greedy tokens by the logits of whole sequences.
async fn by_logits(session: &mut Session, prompt: &[u32], n: usize) -> Vec<u32> {
    let vocab = session.config().vocab_size as usize;
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let logits = model::logits(session, &ids, None).await;
        let last = &logits[logits.len() - vocab..];
        let best = (0..vocab)
            .rev()
            .max_by(|&a, &b| last[a].total_cmp(&last[b]));
        ids.push(best.expect("a vocabulary") as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn generation_with_a_prefix_is_what_the_logits_say() {
    const NEW: usize = 8;
    pollster::block_on(async {
        let goldens = named([
            "llama-bias-tied-rope-linear",
            "qwen3-qk-norm",
            "opt-post-norm-project",
        ]);
        for (case, golden) in goldens.into_iter().enumerate() {
            let (_folder, plain) = rounded(&golden).await;
            let vocab = plain.config.vocab_size;
            for executor in 0..device::for_case(case).await.len() {
                let open = async |checkpoint: &Checkpoint| {
                    let executor = device::for_case(case).await.swap_remove(executor);
                    model::load(checkpoint, executor, &options(KvType::F32)).await
                };
                // What follows token 3 by the model itself: the prefix of two is completed by a generated token.
                let second = by_logits(&mut open(&plain).await, &[3], 1).await[0];
                for tokens in [vec![3], vec![3, second], vec![3, second, 5]] {
                    let layers = noise(&plain, tokens.len());
                    let (_folder, stored) = with_prefix(&plain, &tokens, &layers).await;
                    let mut session = open(&stored).await;
                    let prompts = [
                        vec![3],
                        tokens.clone(),
                        prompt(&tokens, 70, vocab),
                        vec![5, 3],
                    ];
                    let mut expected = Vec::new();
                    for prompt in &prompts {
                        let ids = by_logits(&mut session, prompt, NEW).await;
                        let what =
                            format!("{}, {tokens:?}, {} tokens", golden.display(), prompt.len());
                        let alone = model::greedy(&mut session, prompt, NEW).await;
                        assert_eq!(alone, ids, "{what}");
                        expected.push(ids);
                    }
                    for trio in [[0, 1, 3], [3, 2, 0]] {
                        let prompts = trio.map(|i| &prompts[i][..]);
                        let mut found = [const { Vec::new() }; 3];
                        let mut take = |sequence: usize, id: u32| {
                            found[sequence].push(id);
                            ControlFlow::Continue(())
                        };
                        let greedy = SamplerConfig::GREEDY;
                        session
                            .generate_batch(&prompts, &greedy, Some(NEW), &mut take)
                            .await
                            .expect("three prompts");
                        let expected = trio.map(|i| expected[i].clone());
                        assert_eq!(
                            found,
                            expected,
                            "{}, {tokens:?}, together",
                            golden.display()
                        );
                    }
                }
            }
        }
    });
}
