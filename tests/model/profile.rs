//! When dispatches ran: on the twins by the host's clock, on an adapter by its own.

use plateau::exec::{Executor, GpuOptions, ProfileDetail, RunTimes};
use plateau::model::StepShape;
use plateau::plan::{Dispatch, Grid, Plan};
use plateau::session::{LoadOptions, Row};
use plateau_tests::{cases, device, model};

/// The twins, and each adapter as a user has it.
async fn executors() -> Vec<Executor> {
    let mut executors = device::devices(GpuOptions::default()).await;
    executors.push(Executor::twin());
    executors
}

/// Whether the executor has timestamps: what a profile may not claim on its own.
fn has_timestamps(executor: &Executor) -> bool {
    executor
        .adapter()
        .is_none_or(|adapter| adapter.features.contains(&("timestamps", true)))
}

fn assert_in_order(run: &RunTimes, what: &str) {
    let mut before = run.start_ns;
    for dispatch in &run.dispatches {
        assert!(
            dispatch.start_ns >= before && dispatch.end_ns >= dispatch.start_ns,
            "{what}: {dispatch:?} after {before}"
        );
        before = dispatch.end_ns;
    }
    assert!(run.end_ns >= before, "{what}");
}

#[test]
fn a_profile_has_every_dispatch_of_a_step() {
    pollster::block_on(async {
        let checkpoint = model::builtin().await;
        for executor in executors().await {
            let name = executor.name().to_owned();
            let expected = has_timestamps(&executor);
            let mut session = model::load(&checkpoint, executor, &LoadOptions::default()).await;
            let row = |position| Row {
                sequence: 0,
                position,
                token: 5,
            };
            let shape = StepShape::Rows {
                rows: 2,
                tiles: 1,
                logits: 1,
            };
            let plan = session.parts().0.step(&shape).plan;
            let planned: Vec<(&str, &str)> = plan
                .dispatches
                .iter()
                .map(|dispatch| (dispatch.kernel.name, dispatch.label.as_str()))
                .collect();
            let started = session.parts().1.start_profile(ProfileDetail::Dispatches);
            assert_eq!(started, expected, "{name}");
            let logits = session.step(&[row(0), row(1)], &[1]).await.expect("a step");
            session.step(&[row(2), row(3)], &[1]).await.expect("a step");
            let runs = session.parts().1.take_profile().await.expect("timestamps");
            if !expected {
                device::say_left_out(&name, "the times: it has no timestamps");
                continue;
            }
            assert_eq!(runs.len(), 2, "{name}");
            for run in &runs {
                let found: Vec<(&str, &str)> = run
                    .dispatches
                    .iter()
                    .map(|dispatch| (dispatch.kernel, dispatch.label.as_str()))
                    .collect();
                assert_eq!(found, planned, "{name}");
                assert_in_order(run, &name);
                assert!(run.ns() > 0, "{name}");
            }
            assert!(runs[1].start_ns >= runs[0].end_ns, "{name}");
            // Nothing is noted any more, and nothing else has changed.
            session.reset(0);
            let again = session.step(&[row(0), row(1)], &[1]).await.expect("a step");
            assert!(again == logits, "{name}: a profile changed the logits");
            let none = session.parts().1.take_profile().await.expect("nothing");
            assert_eq!(none, [], "{name}");
        }
    });
}

/// Timestamps come in sets of 4096.
#[test]
fn a_profile_may_have_thousands_of_dispatches() {
    const COUNT: usize = 9000;
    let cases = cases::elementwise::cases();
    let case = cases
        .iter()
        .min_by_key(|case| case.bytes())
        .expect("there are cases");
    let mut plan = Plan::default();
    let bindings: Vec<_> = case
        .buffers
        .iter()
        .map(|words| plan.scratch("binding", words.len() as u64))
        .collect();
    plan.dispatches = (0..COUNT)
        .map(|n| Dispatch {
            label: n.to_string(),
            kernel: case.kernel,
            params: case.params.clone(),
            constants: case.constants.clone(),
            bindings: bindings.clone(),
            grid: Grid::Fixed(case.grid),
        })
        .collect();
    pollster::block_on(async {
        for mut executor in executors().await {
            let name = executor.name().to_owned();
            let prepared = executor.prepare(plan.clone()).await.expect("a plan");
            if !executor.start_profile(ProfileDetail::Dispatches) {
                device::say_left_out(&name, "the times: it has no timestamps");
                continue;
            }
            executor.run(prepared).expect("a run");
            executor.run_range(prepared, 3..7).expect("some of it");
            executor.run_range(prepared, 0..0).expect("nothing of it");
            // What was noted outlives the plan.
            executor.release(prepared);
            let runs = executor.take_profile().await.expect("timestamps");
            let labels = |run: &RunTimes| -> Vec<String> {
                let dispatches = run.dispatches.iter();
                dispatches.map(|dispatch| dispatch.label.clone()).collect()
            };
            let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
            assert!(labels(&runs[0]) == expected, "{name}");
            assert_eq!(labels(&runs[1]), ["3", "4", "5", "6"], "{name}");
            for run in &runs {
                assert_in_order(run, &name);
            }
        }
    });
}

#[test]
fn runs_alone_are_timed_without_their_dispatches() {
    let case = &cases::norm::cases()[0];
    pollster::block_on(async {
        for mut executor in executors().await {
            let name = executor.name().to_owned();
            if !executor.start_profile(ProfileDetail::Runs) {
                device::say_left_out(&name, "the times: it has no timestamps");
                continue;
            }
            plateau_tests::run::run(&mut executor, case)
                .await
                .expect("a case");
            let runs = executor.take_profile().await.expect("timestamps");
            assert_eq!(runs.len(), 1, "{name}");
            assert!(runs[0].dispatches.is_empty() && runs[0].ns() > 0, "{name}");
        }
    });
}

#[test]
fn a_device_that_was_opened_without_timestamps_says_so() {
    pollster::block_on(async {
        for mut executor in device::portable_devices().await {
            assert!(!executor.start_profile(ProfileDetail::Dispatches));
            assert_eq!(executor.take_profile().await.expect("nothing"), []);
        }
    });
}
