//! What a session refuses, and how a device fails.

use plateau::Error;
use plateau::checkpoint::{
    Architecture, Family, LlamaConfig, ModelConfig, RopeConfig, RopeScaling,
};
use plateau::exec::{DeviceError, Executor, GpuOptions, open_all};
use plateau::plan::{BufferDesc, Plan};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Row, Session, SessionError, SyntheticFormat};
use plateau::tensor::Quant;
use plateau_tests::{device, model};
use std::ops::ControlFlow;

async fn builtin(options: &LoadOptions) -> Session {
    model::load(&model::builtin().await, Executor::twin(), options).await
}

async fn refused(prompt: &[u32]) -> String {
    let mut session = builtin(&LoadOptions {
        context_size: Some(8),
        ..LoadOptions::default()
    })
    .await;
    let mut take = |_| ControlFlow::Continue(());
    let result = session
        .generate(prompt, &SamplerConfig::GREEDY, Some(1), &mut take)
        .await;
    result.expect_err("the prompt is wrong").to_string()
}

#[test]
fn prompts_that_cannot_be_served_are_refused() {
    pollster::block_on(async {
        assert!(refused(&[]).await.contains("empty"));
        let long = refused(&[5; 9]).await;
        assert!(long.contains("9 tokens") && long.contains('8'), "{long}");
        let unknown = refused(&[1, 8192]).await;
        assert!(
            unknown.contains("token id 8192 (number 1 from 0)"),
            "{unknown}"
        );
    });
}

#[test]
fn a_step_checks_its_rows() {
    pollster::block_on(async {
        let mut session = builtin(&LoadOptions {
            context_size: Some(8),
            max_rows: Some(4),
            ..LoadOptions::default()
        })
        .await;
        let row = Row {
            sequence: 0,
            position: 0,
            token: 1,
        };
        for (rows, part) in [
            (vec![row; 5], "5 rows"),
            (vec![Row { position: 8, ..row }], "9 tokens"),
            (vec![Row { sequence: 1, ..row }], "2 sequences"),
            (vec![Row { token: 9000, ..row }], "9000"),
            (vec![], "empty"),
        ] {
            let error = session
                .step(&rows, &[])
                .await
                .expect_err("the rows are wrong")
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn options_that_do_not_fit_the_checkpoint_are_refused() {
    pollster::block_on(async {
        let checkpoint = model::builtin().await;
        for (options, part) in [
            (
                LoadOptions {
                    context_size: Some(0),
                    ..LoadOptions::default()
                },
                "context size 0",
            ),
            (
                LoadOptions {
                    context_size: Some(513),
                    ..LoadOptions::default()
                },
                "between 1 and 512",
            ),
            (
                LoadOptions {
                    quant: Some(Quant::W8A8),
                    ..LoadOptions::default()
                },
                "quantized already",
            ),
        ] {
            let result = Session::load(&checkpoint, Executor::twin(), &options, &mut |_| {}).await;
            let error = result.err().expect("the options are wrong").to_string();
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_anything_is_allocated() {
    let config = ModelConfig {
        family: Family::Llama,
        architecture: Architecture::Llama(LlamaConfig {
            rms_norm_eps: 1e-5,
            rope: RopeConfig {
                theta: 10000.0,
                scaling: RopeScaling::Default,
            },
            qk_norm: false,
        }),
        hidden_size: 16384,
        intermediate_size: 65536,
        num_hidden_layers: 200,
        num_attention_heads: 128,
        num_key_value_heads: 128,
        head_dim: 128,
        vocab_size: 32000,
        max_position_embeddings: 4096,
        windows: vec![None; 200],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
    };
    pollster::block_on(async {
        let gpus = device::portable_devices().await;
        for device in std::iter::once(Executor::twin()).chain(gpus) {
            let options = LoadOptions {
                quant: Some(Quant::F32),
                ..LoadOptions::default()
            };
            let name = device.name().to_owned();
            // A GPU has what it has; what the host has left changes from moment to moment.
            let exact = device.adapter().is_some();
            let Some(memory) = device.available_memory() else {
                assert!(
                    exact || !cfg!(target_os = "linux"),
                    "Linux tells what memory it has"
                );
                println!("skipped: the memory of {name} is not told");
                continue;
            };
            let result = Session::synthetic(
                &config,
                device,
                &options,
                &SyntheticFormat::default(),
                &mut |_| {},
            )
            .await;
            match result.err().expect("four terabytes do not fit") {
                Error::Session(SessionError::DoesNotFit {
                    name: found,
                    needed,
                    available,
                }) => {
                    assert!(
                        needed > 1 << 41 && (available == memory || !exact),
                        "{name}: {needed} {available}"
                    );
                    assert_eq!(found, name);
                }
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn a_buffer_beyond_the_limit_is_an_error_with_both_numbers() {
    pollster::block_on(async {
        for mut device in device::portable_devices().await {
            let desc = BufferDesc {
                label: "layers.0.k_cache".to_owned(),
                words: (128 << 20) / 4 + 1,
            };
            match device
                .allocate(&desc)
                .await
                .expect_err("past the limit of a binding")
            {
                DeviceError::TooLarge {
                    label,
                    bytes,
                    limit,
                    ..
                } => {
                    assert_eq!(
                        (label.as_str(), bytes, limit),
                        ("layers.0.k_cache", (128 << 20) + 4, 128 << 20)
                    );
                }
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn a_buffer_that_the_host_cannot_give_is_an_error() {
    pollster::block_on(async {
        let desc = BufferDesc {
            label: "layers.0.k_cache".to_owned(),
            words: 1 << 50,
        };
        let mut plan = Plan::default();
        plan.scratch(&desc.label, desc.words);
        let mut twin = Executor::twin();
        for error in [
            twin.allocate(&desc).await.expect_err("four pebibytes"),
            twin.prepare(plan).await.expect_err("four pebibytes"),
        ] {
            match error {
                DeviceError::OutOfMemory { label, bytes, .. } => {
                    assert_eq!((label.as_str(), bytes), ("layers.0.k_cache", 1 << 52));
                }
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn a_lost_device_is_an_error_and_no_panic() {
    pollster::block_on(async {
        for gpu in open_all(GpuOptions::PORTABLE).await {
            let gpu = gpu.unwrap_or_else(|error| panic!("{error}"));
            let checkpoint = model::builtin().await;
            let mut session = model::load(
                &checkpoint,
                Executor::Gpu(Box::new(gpu)),
                &LoadOptions::default(),
            )
            .await;
            let row = Row {
                sequence: 0,
                position: 0,
                token: 1,
            };
            session
                .step(&[row], &[0])
                .await
                .expect("the device is there");
            match session.parts().1 {
                Executor::Gpu(gpu) => gpu.lose_device(),
                Executor::Cpu(_) => unreachable!("a GPU was opened"),
            }
            match session
                .step(&[row], &[0])
                .await
                .expect_err("the device is gone")
            {
                Error::Device(DeviceError::Lost { .. }) => {}
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
#[ignore = "fills a whole GPU; for a card of its own: cargo test -p plateau-tests --test model -- --ignored"]
fn a_full_device_is_an_error_and_stays_usable() {
    pollster::block_on(async {
        for gpu in open_all(GpuOptions::default()).await {
            let gpu = gpu.unwrap_or_else(|error| panic!("{error}"));
            if gpu.adapter().kind == "software" {
                println!("skipped: {} would fill the host's memory", gpu.name());
                continue;
            }
            let mut device = Executor::Gpu(Box::new(gpu));
            let words = device.max_buffer_bytes() / 4;
            let mut filled = 0;
            let error = loop {
                match device
                    .allocate(&BufferDesc {
                        label: format!("filler {filled}"),
                        words,
                    })
                    .await
                {
                    Ok(()) => filled += 1,
                    Err(error) => break error,
                }
                assert!(filled < 1000, "no card has this much memory");
            };
            match error {
                DeviceError::OutOfMemory { bytes, .. } => assert_eq!(bytes, 4 * words),
                other => panic!("{other}"),
            }
            device.finish().await.expect("the device is usable");
        }
    });
}
