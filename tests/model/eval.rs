//! Scores: the same however requests are packed, and equal to those of another program.

use plateau::eval::{
    Likelihood, Questions, Request, Score, Subject, Task, WindowOptions, Windows, likelihoods,
    score_text,
};
use plateau::exec::Executor;
use plateau::session::{LoadOptions, Session};
use plateau::tensor::{KvType, Quant};
use plateau::tokenizer::Tokenizer;
use plateau_tests::tolerance::{LOG_LIKELIHOOD, LOSS_OF_SAME_LOGITS};
use plateau_tests::{compare, device, model};
use serde_json::Value;
use std::path::Path;

/// Questions whose choices share much, little or nothing, in one or several pages of keys; ids below 60.
fn questions() -> Vec<Vec<Request>> {
    let ids = |seed: u32, len: usize| -> Vec<u32> {
        (0..len as u32)
            .map(|i| (seed * 17 + i * i * 7 + i * 3) % 60)
            .collect()
    };
    let request = |context: &[u32], continuation: Vec<u32>| Request {
        ids: [context, &continuation].concat(),
        scored: continuation.len(),
    };
    let long = ids(1, 70);
    let short = ids(2, 3);
    vec![
        vec![
            request(&long, ids(3, 5)),
            request(&long, ids(4, 1)),
            request(&long, ids(5, 9)),
        ],
        vec![request(&short, ids(6, 2))],
        // The first id of the continuation is shared too, and one is the beginning of the other.
        vec![
            request(&short, vec![5, 6, 7]),
            request(&short, vec![5, 6]),
            request(&short, vec![5, 8, 9, 10]),
        ],
        // Nothing is shared.
        vec![request(&[3, 4], ids(7, 4)), request(&[9, 4], ids(7, 4))],
        vec![
            request(&long[..20], ids(8, 6)),
            request(&long[..21], ids(9, 6)),
        ],
    ]
}

async fn scored(session: &mut Session, questions: &[Vec<Request>]) -> Vec<Vec<Likelihood>> {
    likelihoods("a model", session, questions, &mut |_| {})
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// From the logits of the whole request at once.
async fn by_hand(session: &mut Session, request: &Request) -> Likelihood {
    let vocab = session.config().vocab_size as usize;
    let inputs = &request.ids[..request.ids.len() - 1];
    let logits = model::logits(session, inputs, None).await;
    let mut expected = Likelihood::default();
    for (row, &target) in logits
        .chunks_exact(vocab)
        .zip(&request.ids[1..])
        .skip(inputs.len() - request.scored)
    {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let target = row[target as usize];
        expected.log_likelihood += f64::from(target) - sum.ln();
        expected.greedy &= row.iter().all(|&logit| logit <= target);
    }
    expected
}

#[test]
fn likelihoods_do_not_depend_on_how_requests_are_packed() {
    pollster::block_on(async {
        let folder = &model::goldens()[0];
        let checkpoint = model::open(folder).await;
        let executors = std::iter::once(Executor::twin())
            .chain(device::portable_devices().await)
            .collect::<Vec<_>>();
        for executor in executors {
            let what = format!("{} on {}", folder.display(), executor.name());
            // Three questions at a time, in steps that cut them anywhere.
            let options = LoadOptions {
                quant: Some(Quant::W8A8),
                kv_type: KvType::F16,
                context_size: Some(128),
                max_sequences: 3,
                max_rows: Some(13),
                ..LoadOptions::default()
            };
            let mut session = model::load(&checkpoint, executor, &options).await;
            let questions = questions();
            let together = scored(&mut session, &questions).await;
            for (question, together) in questions.iter().zip(together) {
                for (request, together) in question.iter().zip(together) {
                    let alone = [vec![request.clone()]];
                    let alone = scored(&mut session, &alone).await;
                    assert_eq!(alone, [[together]], "{what}");
                    let expected = by_hand(&mut session, request).await;
                    assert_eq!(together.greedy, expected.greedy, "{what}");
                    compare::close(
                        &[together.log_likelihood],
                        &[expected.log_likelihood],
                        LOSS_OF_SAME_LOGITS,
                    )
                    .unwrap_or_else(|message| panic!("{what}: {message}"));
                }
            }
        }
    });
}

#[test]
fn a_model_does_not_diverge_from_itself_and_a_rounded_one_does() {
    pollster::block_on(async {
        let folder = &model::goldens()[0];
        let checkpoint = model::open(folder).await;
        let ids: Vec<u32> = (0..100).map(|i| (i * i * 5 + 3 * i) % 60).collect();
        let windows = Windows::cut(
            &ids,
            &WindowOptions {
                size: 32,
                bos: Some(1),
                most: None,
                score: Score::SecondHalf,
            },
        );
        let mut sessions = Vec::new();
        for quant in [Quant::F32, Quant::F32, Quant::W8A8, Quant::W4A4] {
            let options = LoadOptions {
                quant: Some(quant),
                ..model::f32_options()
            };
            sessions.push(model::load(&checkpoint, Executor::twin(), &options).await);
        }
        let mut subjects: Vec<Subject<'_>> = sessions
            .iter_mut()
            .map(|session| Subject {
                name: "a model",
                session,
            })
            .collect();
        let reference = subjects.remove(0);
        let mut done = 0;
        let (own, scores) = score_text(Some(reference), &mut subjects, &windows, &mut |now| {
            done = now
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(done as usize, 4 * windows.ids.len());
        let own = own.expect("there is a reference").losses;
        assert_eq!(own.count() as usize, 3 * 15);
        let divergence = |i: usize| scores[i].divergence.as_ref().expect("was compared");
        let same = divergence(0);
        assert_eq!(scores[0].losses.mean(), own.mean());
        assert_eq!((same.kl.mean(), same.extra_losses.mean()), (0.0, 0.0));
        assert_eq!(same.kl_quantiles([0.0, 1.0]), [0.0, 0.0]);
        assert_eq!(same.same_top.mean(), 1.0);
        let (w8a8, w4a4) = (divergence(1), divergence(2));
        assert!(0.0 < w8a8.kl.mean() && w8a8.kl.mean() < w4a4.kl.mean());
        let [least, largest] = w4a4.kl_quantiles([0.0, 1.0]);
        assert!(0.0 <= least && least < w4a4.kl.mean() && w4a4.kl.mean() < largest);
        let extra = scores[2].losses.mean() - own.mean();
        compare::close(&[w4a4.extra_losses.mean()], &[extra], LOSS_OF_SAME_LOGITS)
            .unwrap_or_else(|message| panic!("{message}"));
    });
}

fn json(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tasks that the references have, and their files.
const TASKS: [(Task, &str); 5] = [
    (Task::Lambada, "lambada/lambada_test.jsonl"),
    (Task::Piqa, "piqa/valid.jsonl"),
    (Task::HellaSwag, "hellaswag/validation.jsonl"),
    (Task::WinoGrande, "winogrande/validation.jsonl"),
    (Task::ArcEasy, "arc_easy/test.jsonl"),
];

/// Rows of each task, unless `PLATEAU_ALL_WINDOWS` is set: what the twins do in some seconds.
const ROWS: usize = 5;

#[test]
fn tasks_give_the_reference_likelihoods_and_predictions() {
    for name in ["demo-llama-16m", "demo-opt-17m"] {
        if let Some(folder) = model::shared(&format!("models/{name}")) {
            pollster::block_on(check_tasks(&folder));
        }
    }
}

async fn check_tasks(folder: &Path) {
    let reference = json(&folder.join("reference/tasks.json"));
    let checkpoint = model::open(folder).await;
    let tokenizer = Tokenizer::load(&checkpoint.folder)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let mut session = model::load(&checkpoint, Executor::twin(), &model::f32_options()).await;
    for (task, file) in TASKS {
        let Some(path) = model::shared(&format!("text/{file}")) else {
            continue;
        };
        let reference = &reference[task.folder()];
        let all = reference["rows"].as_u64().expect("a count") as usize;
        let rows = match std::env::var_os("PLATEAU_ALL_WINDOWS") {
            Some(_) => all,
            None => ROWS,
        };
        println!("{}: {task}: {rows} of {all} rows", folder.display());
        let text = std::fs::read_to_string(&path).expect("was there");
        let questions = task
            .parse(file, &text, Some(rows))
            .unwrap_or_else(|error| panic!("{error}"));
        let limit = checkpoint.config.max_position_embeddings as usize;
        let encoded = questions
            .encode(&tokenizer, checkpoint.generation.bos_token_id, limit)
            .unwrap_or_else(|error| panic!("{error}"));
        let found = scored(&mut session, &encoded.requests).await;
        check_task(&questions, &found, reference, rows);
    }
}

fn check_task(questions: &Questions, found: &[Vec<Likelihood>], reference: &Value, rows: usize) {
    let task = questions.task;
    assert_eq!(found.len(), rows);
    let score = questions.score(found);
    if task == Task::Lambada {
        let greedy = reference["greedy_match"].as_str().expect("a text").bytes();
        for (row, ((found, greedy), expected)) in found
            .iter()
            .zip(greedy)
            .zip(list(&reference["loglikelihood"]))
            .enumerate()
        {
            assert_eq!(found[0].greedy, greedy == b'1', "{task} row {row}");
            close(task, row, &[found[0].log_likelihood], &[number(expected)]);
        }
        let right = &reference["greedy_match"].as_str().expect("a text")[..rows];
        let right = right.bytes().filter(|&byte| byte == b'1').count();
        assert_eq!(score.acc.mean(), right as f64 / rows as f64);
        return;
    }
    let mut right = 0;
    for (row, ((found, expected), question)) in found
        .iter()
        .zip(list(&reference["loglikelihoods"]))
        .zip(&questions.questions)
        .enumerate()
    {
        let found: Vec<f64> = found.iter().map(|found| found.log_likelihood).collect();
        let expected: Vec<f64> = list(expected).iter().map(number).collect();
        close(task, row, &found, &expected);
        let best = found.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let prediction = found.iter().position(|&found| found == best);
        let expected = reference["predictions"][row].as_u64();
        assert_eq!(prediction.map(|p| p as u64), expected, "{task} row {row}");
        right += usize::from(prediction == Some(question.answer));
    }
    assert_eq!(score.acc.mean(), right as f64 / rows as f64, "{task}");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[track_caller]
fn close(task: Task, row: usize, found: &[f64], expected: &[f64]) {
    compare::close(found, expected, LOG_LIKELIHOOD)
        .unwrap_or_else(|message| panic!("{task} row {row}: {message}"));
}
