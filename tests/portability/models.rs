//! Whole models on the first adapter: the goldens in f32 against their references, the built-in one against the twins.

use crate::Result;
use plateau::exec::{Executor, GpuOptions, open_all};
use plateau::session::LoadOptions;
use plateau_tests::{model, tolerance};
use serde_json::{Value, json};

/// New tokens of the built-in model.
const TOKENS: usize = 48;

fn print(name: &str, compared: usize, wrong: usize, why: &str) {
    let outcome = if wrong == 0 { "equal" } else { "differs" };
    println!(
        "{}",
        json!({
            "kernel": name,
            "variant": "",
            "case": format!("{compared} tokens"),
            "outcome": outcome,
            "why": why,
        })
    );
}

async fn adapter() -> Result<Executor> {
    let opened = open_all(GpuOptions::default()).await.into_iter().next();
    Ok(Executor::Gpu(Box::new(opened.ok_or("no adapter")??)))
}

pub async fn run() -> Result<()> {
    for folder in model::goldens() {
        let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json"))?)?;
        let ids = |name: &str| serde_json::from_value::<Vec<u32>>(golden[name].clone());
        let (prompt, expected) = (ids("input_ids")?, ids("greedy_ids")?);
        let checkpoint = model::open(&folder).await;
        let mut session = model::load(&checkpoint, adapter().await?, &model::f32_options()).await;
        let found = model::greedy(&mut session, &prompt, expected.len()).await;
        let wrong = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let why = if wrong == 0 {
            String::new()
        } else {
            format!("{found:?} instead of {expected:?}")
        };
        print(&format!("{name} in f32"), expected.len(), wrong, &why);
    }
    builtin().await
}

/// Every token after the ones that the twins chose.
async fn builtin() -> Result<()> {
    let checkpoint = model::builtin().await;
    let options = LoadOptions::default();
    let mut twin = model::load(&checkpoint, Executor::twin(), &options).await;
    let first = checkpoint.config.vocab_size / 3;
    let mut ids = vec![first];
    ids.extend(model::greedy(&mut twin, &[first], TOKENS).await);
    let expected = model::logits(&mut twin, &ids, None).await;
    let mut session = model::load(&checkpoint, adapter().await?, &options).await;
    let found = model::logits(&mut session, &ids, None).await;
    let vocab = checkpoint.config.vocab_size as usize;
    let apart = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
    let apart = f64::from(apart.fold(0.0, f32::max));
    let (mut compared, mut wrong) = (0, Vec::new());
    // What the bound rests on.
    if 2.0 * apart >= tolerance::CLEAR_CHOICE {
        wrong.push(format!("logits are {apart} apart"));
    }
    for (at, (expected, found)) in expected.chunks(vocab).zip(found.chunks(vocab)).enumerate() {
        let ([best, second], [other, _]) = (top_two(expected), top_two(found));
        if f64::from(expected[best] - expected[second]) > tolerance::CLEAR_CHOICE {
            compared += 1;
            if best != other {
                wrong.push(format!("token {at}: {other} instead of {best}"));
            }
        }
    }
    print("built-in model", compared, wrong.len(), &wrong.join("; "));
    if compared < TOKENS / 2 {
        return Err(format!("only {compared} of {TOKENS} tokens have a clear choice").into());
    }
    Ok(())
}

/// Where the largest and the second largest logits are.
fn top_two(logits: &[f32]) -> [usize; 2] {
    let mut best = [0, 1];
    if logits[1] > logits[0] {
        best = [1, 0];
    }
    for (i, &logit) in logits.iter().enumerate().skip(2) {
        if logit > logits[best[0]] {
            best = [i, best[0]];
        } else if logit > logits[best[1]] {
            best[1] = i;
        }
    }
    best
}
