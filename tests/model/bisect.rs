//! Twin and GPU through the same plan, dispatch by dispatch.

use plateau::exec::Executor;
use plateau::exec::bisect::{Divergence, Side, bisect};
use plateau::model::StepShape;
use plateau::plan::BufferId;
use plateau::session::{LoadOptions, Row, Session};
use plateau::tensor::KvType;
use plateau_tests::{Check, cases, compare, device, model};
use std::collections::BTreeMap;

/// How each kernel's outputs are judged: as in its cases.
fn checks() -> BTreeMap<(&'static str, usize), Check> {
    let outputs = cases::all().into_iter().flat_map(|case| {
        let name = case.kernel.name;
        // A raw accumulator is judged exactly; in a model the epilogue's float is what is written.
        let raw = case
            .constants
            .iter()
            .any(|(constant, _)| *constant == "RAW_ACCUMULATORS");
        case.outputs
            .into_iter()
            .filter(move |_| !raw)
            .map(move |(binding, check)| ((name, binding), check))
    });
    outputs.collect()
}

/// Two sessions of the built-in model with 70 tokens in their caches, and the plan of a step of `rows` more.
async fn prepared(executor: Executor, kv_type: KvType, rows: u32) -> (Session, Vec<Row>) {
    let checkpoint = model::builtin().await;
    let options = LoadOptions {
        kv_type,
        ..LoadOptions::default()
    };
    let mut session = model::load(&checkpoint, executor, &options).await;
    let row = |position: u32| Row {
        sequence: 0,
        position,
        token: 17 + position * 13,
    };
    let before: Vec<Row> = (0..70).map(row).collect();
    session.step(&before, &[]).await.expect("a step");
    (session, (70..70 + rows).map(row).collect())
}

async fn first_divergence(
    gpu: Executor,
    kv_type: KvType,
    rows: u32,
    spoil: Option<&str>,
) -> Option<Divergence> {
    let checks = checks();
    let judge =
        |dispatch: &plateau::plan::Dispatch, binding: usize, found: &[u32], expected: &[u32]| {
            compare::compare(found, expected, &checks[&(dispatch.kernel.name, binding)])
        };
    let (mut twin, step) = prepared(Executor::twin(), kv_type, rows).await;
    let (mut gpu, _) = prepared(gpu, kv_type, rows).await;
    let wanted: Vec<u32> = (0..rows).collect();
    // Fills the step buffers of both.
    twin.step(&step, &wanted).await.expect("a step");
    gpu.step(&step, &wanted).await.expect("a step");
    let tiles = plateau_shaders::attention::tiles(
        &step
            .iter()
            .map(|r| [r.sequence, r.position])
            .collect::<Vec<_>>(),
    );
    let shape = StepShape::Rows {
        rows,
        tiles: tiles.len() as u32,
        logits: rows,
    };
    let (model, executor) = twin.parts();
    let (plan, shared) = (model.step(&shape).plan, model.shared.clone());
    let twin_plan = executor.prepare(plan.clone()).await.expect("a plan");
    let (_, gpu_executor) = gpu.parts();
    let gpu_plan = gpu_executor.prepare(plan.clone()).await.expect("a plan");
    if let Some(label) = spoil {
        let index = shared
            .descs
            .iter()
            .position(|desc| desc.label.contains(label))
            .expect("a weight of that name");
        let id = BufferId::Shared(index as u32);
        // The first words of the first row: one alone could meet a zero of the input.
        let mut words = gpu_executor
            .read(None, id, 0..16)
            .await
            .expect("some words");
        words.iter_mut().for_each(|word| *word ^= 0x70);
        gpu_executor.write(id, 0, &words).expect("some words");
    }
    let (twin, gpu) = (
        Side {
            executor,
            plan: twin_plan,
        },
        Side {
            executor: gpu_executor,
            plan: gpu_plan,
        },
    );
    bisect(&plan, &shared, twin, gpu, &judge)
        .await
        .expect("both executors run")
}

#[test]
fn every_dispatch_of_the_builtin_model_agrees_with_its_twin() {
    pollster::block_on(async {
        let default = KvType::default();
        for (kv_type, rows) in [
            (default, 1),
            (default, 13),
            (KvType::I8, 1),
            (KvType::I8, 13),
        ] {
            for gpu in device::portable_devices().await {
                let what = format!("{rows} rows over {kv_type} on {}", gpu.name());
                let divergence = first_divergence(gpu, kv_type, rows, None).await;
                assert!(divergence.is_none(), "{what}: {divergence:?}");
            }
        }
    });
}

#[test]
fn bisect_names_the_dispatch_of_a_spoiled_weight() {
    pollster::block_on(async {
        for rows in [1, 13] {
            // It is bisect that is tested: one device is enough.
            let gpu = device::portable_devices().await.remove(0);
            let spoil = Some("layers.5.mlp.down_proj.w");
            let divergence = first_divergence(gpu, KvType::default(), rows, spoil)
                .await
                .expect("some nibbles are wrong");
            assert_eq!(
                divergence.label, "model.layers.5.mlp.down_proj",
                "{divergence:?}"
            );
            assert!(divergence.kernel.ends_with("_i4"), "{divergence:?}");
        }
    });
}
