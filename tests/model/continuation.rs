//! Sequences that go on from positions that they hold already.

use plateau::exec::{Executor, GpuOptions};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Row, Session, SessionError};
use plateau_tests::{device, model};
use std::ops::ControlFlow;

const PROMPT: u32 = 70;
const NEW: usize = 6;

fn ids() -> Vec<u32> {
    (0..PROMPT).map(|position| 17 + position * 13).collect()
}

fn rows(ids: &[u32], sequence: u32, positions: std::ops::Range<usize>) -> Vec<Row> {
    positions
        .map(|position| Row {
            sequence,
            position: position as u32,
            token: ids[position],
        })
        .collect()
}

async fn go_on(session: &mut Session, rows: &[Row]) -> Vec<Vec<u32>> {
    let mut tokens = vec![Vec::new(); rows.len()];
    let mut take = |sequence: usize, token| {
        tokens[sequence].push(token);
        ControlFlow::Continue(())
    };
    let reports = session
        .continue_batch(rows, &SamplerConfig::GREEDY, Some(NEW), &mut take)
        .await
        .expect("it goes on");
    for (report, row) in reports.iter().zip(rows) {
        assert_eq!(report.new_tokens, NEW);
        assert_eq!(report.prompt_tokens, row.position as usize + 1);
    }
    tokens
}

/// Steps and then a continuation give the tokens of a generation; again from the same place, the same ones; and together with
/// another sequence too.
#[test]
fn a_continuation_is_a_generation() {
    pollster::block_on(async {
        let checkpoint = model::builtin().await;
        let mut executors = device::devices(GpuOptions::default()).await;
        executors.push(Executor::twin());
        for executor in executors {
            let name = executor.name().to_owned();
            let options = LoadOptions {
                max_sequences: 2,
                ..LoadOptions::default()
            };
            let mut session = model::load(&checkpoint, executor, &options).await;
            let ids = ids();
            let mut expected = Vec::new();
            let mut take = |token| {
                expected.push(token);
                ControlFlow::Continue(())
            };
            session
                .generate(&ids, &SamplerConfig::GREEDY, Some(NEW), &mut take)
                .await
                .expect("a generation");
            session.reset(0);
            let last = ids.len() - 1;
            for sequence in 0..2 {
                let rows = rows(&ids, sequence, 0..last);
                session.step(&rows, &[]).await.expect("a step");
            }
            let both = [rows(&ids, 0, last..last + 1), rows(&ids, 1, last..last + 1)].concat();
            let found = go_on(&mut session, &both).await;
            assert_eq!(found, [expected.clone(), expected.clone()], "{name}");
            let again = go_on(&mut session, &both[..1]).await;
            assert_eq!(again, [expected], "{name}");

            let error = session
                .continue_batch(&both[1..], &SamplerConfig::GREEDY, None, &mut |_, _| {
                    ControlFlow::Continue(())
                })
                .await
                .expect_err("sequence 1 alone");
            let expected = SessionError::SequenceOrder {
                sequence: 1,
                index: 0,
            };
            assert_eq!(error.to_string(), expected.to_string());
        }
    });
}
