//! Cases in another program: WebGPU of another maker, which reads a case from a line and answers with the words of its outputs.

use crate::{Result, print, variant};
use plateau_shaders::Access;
use plateau_tests::{Case, run};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// The program first writes a line about itself, then a line for each case.
pub async fn run(cases: &[Case], program: &str, args: &[String]) -> Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().ok_or("no pipe to the program")?;
    let mut from = BufReader::new(child.stdout.take().ok_or("no pipe from the program")?).lines();
    let mut answer = || -> Result<String> { Ok(from.next().ok_or("the program ended")??) };
    println!("{}", answer()?);
    for case in cases {
        if case.kernel.matrices().is_some() {
            print(case, "refused", "naga's matrices are no part of WGSL");
            continue;
        }
        writeln!(to, "{}", request(case))?;
        let answer: Value = serde_json::from_str(&answer()?)?;
        match judged(case, &answer).await {
            Ok(()) => print(case, "equal", ""),
            Err((outcome, why)) => print(case, outcome, &why),
        }
    }
    drop(to);
    if !child.wait()?.success() {
        return Err("the program failed after the last case".into());
    }
    Ok(())
}

fn request(case: &Case) -> Value {
    let constants = case.constants.iter();
    let constants: serde_json::Map<String, Value> = constants
        .map(|&(name, value)| (name.to_owned(), value.into()))
        .collect();
    let buffers = case.buffers.iter();
    let buffers: Vec<Vec<u32>> = buffers
        .map(|words| [words, run::SENTINEL.as_slice()].concat())
        .collect();
    let writes = case.kernel.bindings.iter();
    let writes: Vec<bool> = writes.map(|access| *access == Access::ReadWrite).collect();
    let outputs: Vec<usize> = case.outputs.iter().map(|(binding, _)| *binding).collect();
    json!({
        "kernel": case.kernel.name,
        "variant": variant(&case.constants),
        "subgroups": case.kernel.subgroups,
        "wgsl": case.kernel.wgsl(),
        "constants": constants,
        "params": case.params,
        "grid": case.grid,
        "buffers": buffers,
        "writes": writes,
        "outputs": outputs,
    })
}

/// `{"outputs": [[words], …]}` or `{"refused": "why"}`.
async fn judged(case: &Case, answer: &Value) -> std::result::Result<(), (&'static str, String)> {
    let refused = |why: &str| ("refused", why.to_owned());
    if let Some(why) = answer["refused"].as_str() {
        return Err(refused(why));
    }
    let outputs: Vec<Vec<u32>> = serde_json::from_value(answer["outputs"].clone())
        .map_err(|error| ("differs", format!("no words in the answer: {error}")))?;
    if outputs.len() != case.outputs.len() {
        return Err(("differs", format!("{} outputs", outputs.len())));
    }
    let mut found = Vec::new();
    for (words, (binding, _)) in outputs.into_iter().zip(&case.outputs) {
        let len = case.buffers[binding - 1].len();
        found.push(run::without_sentinel(words, len, *binding).map_err(|why| ("differs", why))?);
    }
    let judged = run::judge(case, &found).await;
    judged.map_err(|why| ("differs", why))
}
