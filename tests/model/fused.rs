//! The decode step of models whose layers are a few dispatches.

use plateau::checkpoint::ModelConfig;
use plateau::exec::GpuOptions;
use plateau::model::{StepShape, planned_pages};
use plateau::ops::Sampling;
use plateau::session::{LoadOptions, Session, SyntheticFormat};
use plateau::tensor::{KvType, Quant};
use plateau_tests::device;

/// Widths that the fused kernels take, and more pages than one workgroup of attention has.
const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 67, "max_position_embeddings": 640,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false
}"#;

const GREEDY: Sampling = Sampling {
    temperature: None,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    seed: 0,
};

const FLATTENED: SyntheticFormat = SyntheticFormat {
    group_size: 32,
    added: Some([0.05, 0.2]),
};

/// Sessions of each adapter, with everything that it has.
async fn each_session(
    quant: Quant,
    kv_type: KvType,
    format: SyntheticFormat,
    test: impl AsyncFn(&mut Session),
) {
    let config = ModelConfig::parse("config.json", CONFIG).expect("a configuration");
    for executor in device::devices(GpuOptions::default()).await {
        if !executor.features().subgroups {
            device::say_left_out(executor.name(), "fused decode, which takes subgroups");
            continue;
        }
        let options = LoadOptions {
            quant: Some(quant),
            kv_type,
            ..LoadOptions::default()
        };
        let session = Session::synthetic(&config, executor, &options, &format, &mut |_| {}).await;
        test(&mut session.expect("a small model")).await;
    }
}

fn decode(pages: u32) -> StepShape {
    StepShape::Decode {
        rows: 1,
        pages,
        sampling: GREEDY,
    }
}

#[test]
fn a_layer_is_five_dispatches_or_six_with_split_keys() {
    pollster::block_on(each_session(
        Quant::W4A8,
        KvType::F16,
        FLATTENED,
        async |session| {
            let (model, executor) = session.parts();
            // On matrices keys are always split.
            let whole = if executor.features().matrix_attention {
                6
            } else {
                5
            };
            for (pages, expected) in [(1, whole), (8, whole), (9, 6), (16, 6)] {
                let plan = model.step(&decode(pages)).plan;
                let of_layer =
                    |dispatch: &&plateau::plan::Dispatch| dispatch.label.contains("layers.1.");
                let found: Vec<&str> = plan
                    .dispatches
                    .iter()
                    .filter(of_layer)
                    .map(|dispatch| dispatch.kernel.name)
                    .collect();
                assert_eq!(found.len(), expected, "{pages} pages: {found:?}");
            }
        },
    ));
}

/// What a decode step makes of the last token is what a prefill makes of it, whatever runs in one dispatch.
#[test]
fn a_fused_decode_step_gives_the_bits_of_a_prefill() {
    let dynamic = SyntheticFormat::default();
    for (quant, kv_type, format) in [
        (Quant::W4A8, KvType::F16, FLATTENED),
        (Quant::W8A8, KvType::F16, FLATTENED),
        (Quant::W4A8, KvType::F16, dynamic),
        (Quant::F16, KvType::F16, dynamic),
        (Quant::W8A8, KvType::I8, FLATTENED),
    ] {
        pollster::block_on(each_session(quant, kv_type, format, async |session| {
            let ids: Vec<u32> = (0..520).map(|i| (i * i + 3) % 67).collect();
            let mut expected = Vec::new();
            let mut keep = |_, logits: &[f32]| {
                expected = logits[logits.len() - 67..].to_vec();
            };
            session.logits(&ids, &mut keep).await.expect("logits");
            let last = ids.len() as u32 - 1;
            let (model, executor) = session.parts();
            let decode_buffers = model.decode;
            // Planned for the pages that there are, and for more.
            for pages in [16, 64] {
                let step = model.step(&decode(pages));
                let logits = step.logits.expect("a decode step has logits");
                let plan = executor.prepare(step.plan).await.expect("a plan");
                let token = [ids[last as usize]];
                executor
                    .write(decode_buffers.tokens, 0, &token)
                    .expect("a token");
                executor
                    .write(decode_buffers.row_info, 0, &[0, last])
                    .expect("a position");
                executor.run(plan).expect("a step");
                let found = executor
                    .read(Some(plan), logits, 0..67)
                    .await
                    .expect("logits");
                let bits: Vec<u32> = expected.iter().map(|logit| logit.to_bits()).collect();
                let name = executor.name();
                assert!(
                    found == bits,
                    "{quant} {kv_type:?} on {name}, {pages} pages: the bits differ"
                );
                executor.release(plan);
            }
        }));
    }
}

/// Few rows are matrix-vector products by subgroups, in one workgroup or several; many are matrix products.
#[test]
fn steps_of_up_to_32_rows_give_the_bits_of_larger_ones() {
    let dynamic = SyntheticFormat::default();
    for (quant, format) in [
        (Quant::W4A8, FLATTENED),
        (Quant::W4A8, dynamic),
        (Quant::W8A8, FLATTENED),
    ] {
        pollster::block_on(each_session(quant, KvType::F16, format, async |session| {
            let ids: Vec<u32> = (0..45).map(|i| (i * i + 3) % 67).collect();
            let mut bits = async |rows: usize| {
                let mut found: Vec<u32> = Vec::new();
                let mut keep = |_, logits: &[f32]| found.extend(logits.iter().map(|x| x.to_bits()));
                let run = session.logits_in_chunks(&ids, rows, &mut keep);
                run.await.expect("logits");
                found
            };
            let expected = bits(45).await;
            for rows in [8, 9, 17, 32] {
                let same = bits(rows).await == expected;
                assert!(same, "{quant}: chunks of {rows} rows give other bits");
            }
        }));
    }
}

#[test]
fn the_partials_of_split_keys_count_as_memory() {
    pollster::block_on(each_session(
        Quant::W4A8,
        KvType::F16,
        FLATTENED,
        async |session| {
            let counted = session.memory().scratch;
            let (model, _) = session.parts();
            let scratch = |pages: u32| model.step(&decode(pages)).plan.scratch_bytes();
            let longest = planned_pages(model.capacity.table_stride());
            assert!(longest > planned_pages(1), "keys of this context are split");
            assert!(scratch(longest) > scratch(1));
            assert!(counted > scratch(longest));
        },
    ));
}
