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
    // Drivers and libraries write lines of their own.
    let mut answer = || -> Result<String> {
        loop {
            let line = from.next().ok_or("the program ended")??;
            if line.starts_with(['{', '[', '"']) {
                return Ok(line);
            }
            eprintln!("{line}");
        }
    };
    println!("{}", answer()?);
    for case in cases {
        if case.kernel.matrices().is_some() {
            print(case, "refused", "naga's matrices are no part of WGSL");
            continue;
        }
        writeln!(to, "{}", request(case)?)?;
        let answer = answer()?;
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

/// `{"case": {…}, "buffers": [[words], …]}`
fn request(case: &Case) -> Result<String> {
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
    let described = json!({
        "kernel": case.kernel.name,
        "variant": variant(&case.constants),
        "subgroups": case.kernel.subgroups,
        "wgsl": case.kernel.wgsl(),
        "constants": constants,
        "params": case.params,
        "grid": case.grid,
        "writes": writes,
        "outputs": outputs,
    });
    let buffers = serde_json::to_string(&buffers)?;
    Ok(format!(r#"{{"case": {described}, "buffers": {buffers}}}"#))
}

/// The answer is the words of each output, `[[words], …]`, or the reason why there are none, `"why"`.
async fn judged(case: &Case, answer: &str) -> std::result::Result<(), (&'static str, String)> {
    if let Ok(why) = serde_json::from_str::<String>(answer) {
        return Err(("refused", why));
    }
    let differs = |why: String| ("differs", why);
    let outputs: Vec<Vec<u32>> = serde_json::from_str(answer)
        .map_err(|error| differs(format!("no words in the answer: {error}")))?;
    if outputs.len() != case.outputs.len() {
        return Err(differs(format!("{} outputs", outputs.len())));
    }
    let mut found = Vec::new();
    for (words, (binding, _)) in outputs.into_iter().zip(&case.outputs) {
        let len = case.buffers[binding - 1].len();
        found.push(run::without_sentinel(words, len, *binding).map_err(differs)?);
    }
    run::judge(case, &found).await.map_err(differs)
}
