//! `plateau eval`: its figures against what `plateau logits` says, and what it refuses.

use crate::{
    Plateau, Ran, TinyModel, USAGE, logits_in, plateau, temporary_folder, tiny, write_file,
};
use plateau_tests::tolerance::LOSS_OF_SAME_LOGITS;
use serde_json::{Value, json};
use std::path::Path;

const NUMERIC_CHECK: i32 = 8;
const F32: &str = "--quant f32 --kv-type f32";
const TEXT: &str =
    "It was a bright cold day in April, and the clocks were striking thirteen.\r\nWinston Smith.";

#[track_caller]
fn close(what: &str, found: &Value, expected: f64) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{what}: {found}"));
    let limit = LOSS_OF_SAME_LOGITS.relative * expected.abs();
    assert!(
        (found - expected).abs() <= limit,
        "{what} is {found}, not {expected}"
    );
}

/// ln softmax of each row.
fn log_probabilities(logits: &[f32]) -> Vec<Vec<f64>> {
    logits
        .chunks_exact(tiny::VOCAB)
        .map(|row| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            row.iter()
                .map(|&logit| f64::from(logit) - sum.ln())
                .collect()
        })
        .collect()
}

fn largest(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Mean, and the standard error of the mean.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// A tiny model with a text beside it.
fn model_and_text() -> TinyModel {
    let model = TinyModel::new();
    write_file(&model.path().join("text.txt"), TEXT);
    model
}

fn eval(line: &str) -> Plateau {
    plateau("eval").line(line)
}

trait On {
    fn text(self, model: &TinyModel) -> Self;
    fn against(self, model: &TinyModel) -> Self;
}

impl On for Plateau {
    fn text(self, model: &TinyModel) -> Self {
        self.arg("-f").arg(model.path().join("text.txt"))
    }

    fn against(self, model: &TinyModel) -> Self {
        self.arg("--against").arg(model.path())
    }
}

#[test]
fn divergence_is_what_the_logits_say() {
    const WINDOW: usize = 16;
    const W4A4: &str = "--quant w4a4 --kv-type f16";
    let model = model_and_text();
    let measured = eval(W4A4)
        .line("-c 16 --chunks 2 --json")
        .model(&model)
        .text(&model)
        .against(&model)
        .ran()
        .succeeded()
        .json();
    let ids = tiny::ids(TEXT);
    let (mut kl, mut extra, mut losses, mut same) = (vec![], vec![], vec![], vec![]);
    for text in ids.chunks_exact(WINDOW - 1).take(2) {
        let window: Vec<u32> = std::iter::once(tiny::BOS)
            .chain(text.iter().copied())
            .collect();
        let p = log_probabilities(&logits_in(F32, &model, &window));
        let q = log_probabilities(&logits_in(W4A4, &model, &window));
        for ((p, q), &target) in p.iter().zip(&q).zip(text) {
            kl.push(p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            losses.push(-q[target as usize]);
            extra.push(p[target as usize] - q[target as usize]);
            same.push(f64::from(u8::from(largest(p) == largest(q))));
        }
    }
    let [reference, found] = [&measured["models"][0], &measured["models"][1]];
    assert_eq!(
        (&reference["reference"], &found["reference"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(reference["format"], "f32");
    assert_eq!(
        (&found["format"], &found["kv_type"]),
        (&json!("w4a4"), &json!("f16"))
    );
    assert_eq!(found["file_bytes"], Value::Null);
    let bytes = std::fs::metadata(model.path().join("model.safetensors"));
    assert_eq!(reference["file_bytes"], bytes.expect("is there").len());
    assert_eq!(measured["text"]["tokens"], 30);

    let (nll, error) = mean(&losses);
    close("nll", &found["perplexity"]["nll"], nll);
    close(
        "its error",
        &found["perplexity"]["nll_standard_error"],
        error,
    );
    let against = &found["against"];
    let (mean_kl, error) = mean(&kl);
    assert!(mean_kl > 0.0);
    close("mean KL", &against["kl"]["mean"], mean_kl);
    close("its error", &against["kl"]["standard_error"], error);
    kl.sort_by(f64::total_cmp);
    close("median", &against["kl"]["median"], (kl[14] + kl[15]) / 2.0);
    close("max", &against["kl"]["max"], kl[29]);
    let (mean_extra, error) = mean(&extra);
    let ratio = &against["perplexity_ratio"];
    close("ratio", &ratio["value"], mean_extra.exp());
    close(
        "its error",
        &ratio["standard_error"],
        mean_extra.exp() * error,
    );
    let (share, error) = mean(&same);
    close("same top", &against["same_top"]["value"], share);
    close("its error", &against["same_top"]["standard_error"], error);
}

#[test]
fn a_model_does_not_diverge_from_itself_and_has_its_perplexity() {
    let model = model_and_text();
    for line in ["", "--no-bos", "--score second-half --chunks 3"] {
        let run = |command: &str| {
            let command = plateau(command).line(F32).line("-c 16 --json").line(line);
            command.model(&model).text(&model)
        };
        let measured = run("eval").against(&model).ran().succeeded().json();
        let expected = run("perplexity").ran().succeeded().json();
        for of in [0, 1] {
            let perplexity = &measured["models"][of]["perplexity"];
            assert_eq!(perplexity["value"], expected["perplexity"], "{line}");
            assert_eq!(perplexity["standard_error"], expected["standard_error"]);
        }
        assert_eq!(measured["text"]["tokens"], expected["tokens"], "{line}");
        let against = &measured["models"][1]["against"];
        for of in ["mean", "standard_error", "median", "p99_9", "max"] {
            assert_eq!(against["kl"][of], 0.0, "{line}: {of}");
        }
        assert_eq!(against["perplexity_ratio"]["value"], 1.0);
        assert_eq!(against["same_top"]["value"], 1.0);
    }
}

#[test]
fn every_byte_of_a_text_counts() {
    let model = model_and_text();
    // One window of the whole text, its CR and LF included: they are tokens of the tiny model.
    let size = TEXT.len() + 1;
    assert!(TEXT.contains("\r\n") && size > 64);
    let tail = &TEXT[TEXT.len() - 40..];
    write_file(&model.path().join("text.txt"), tail);
    let fits = eval("--json -c 41").model(&model).text(&model).ran();
    assert_eq!(fits.succeeded().json()["text"]["windows"], 1);
    assert!(tail.contains("\r\n"));
    let ran = eval("--json -c 42").model(&model).text(&model).ran();
    ran.failed(USAGE);
    assert!(ran.stderr.contains("40 tokens"), "{}", ran.stderr);
}

const PIQA: &str = concat!(
    r#"{"goal": "Boil", "sol1": "Heat.", "sol2": "Cool it down", "label": 0}"#,
    "\r\n\n",
    r#"{"goal": "Sit", "sol1": "Chair", "sol2": "Up", "label": 1}"#,
    "\n"
);

#[test]
fn tasks_are_what_the_logits_say() {
    let model = TinyModel::new();
    let piqa = model.path().join("piqa.jsonl");
    write_file(&piqa, PIQA);
    write_file(
        &model.path().join("lambada.jsonl"),
        "{\"text\": \"One two three\"}\n{\"text\": \"Sea salt\"}\n",
    );
    let score = |context: &str, continuation: &str| -> (f64, bool) {
        let context_ids = tiny::ids(context);
        let ids: Vec<u32> = std::iter::once(tiny::BOS)
            .chain(context_ids.iter().copied())
            .chain(tiny::ids(continuation))
            .collect();
        let rows = log_probabilities(&logits_in(F32, &model, &ids));
        let targets = (context_ids.len() + 1..ids.len()).map(|t| (&rows[t - 1], ids[t] as usize));
        targets.fold((0.0, true), |(sum, greedy), (row, target)| {
            (sum + row[target], greedy && largest(row) == target)
        })
    };
    let measured = eval(F32)
        .line("--json --tasks all --task-dir")
        .arg(model.path())
        .model(&model)
        .ran()
        .succeeded()
        .json();
    let tasks = &measured["models"][0]["tasks"];

    let words = [score("One two", " three"), score("Sea", " salt")];
    let (nll, error) = mean(&words.map(|(sum, _)| -sum));
    let (acc, acc_error) = mean(&words.map(|(_, greedy)| f64::from(u8::from(greedy))));
    let lambada = &tasks["lambada_openai"];
    close("lambada", &lambada["perplexity"], nll.exp());
    close(
        "its error",
        &lambada["perplexity_stderr"],
        nll.exp() * error,
    );
    close("acc", &lambada["acc"], acc);
    close("its error", &lambada["acc_stderr"], acc_error);
    assert_eq!(lambada["rows"], 2);
    assert_eq!(lambada.get("acc_norm"), None);

    let (mut right, mut right_norm) = (vec![], vec![]);
    for (goal, first, second, label) in [
        ("Boil", "Heat.", "Cool it down", 0),
        ("Sit", "Chair", "Up", 1),
    ] {
        let context = format!("Question: {goal}\nAnswer:");
        let sums = [first, second].map(|choice| score(&context, &format!(" {choice}")).0);
        let normed = [sums[0] / first.len() as f64, sums[1] / second.len() as f64];
        right.push(f64::from(u8::from(largest(&sums) == label)));
        right_norm.push(f64::from(u8::from(largest(&normed) == label)));
    }
    let ((acc, error), (acc_norm, norm_error)) = (mean(&right), mean(&right_norm));
    close("acc", &tasks["piqa"]["acc"], acc);
    close("its error", &tasks["piqa"]["acc_stderr"], error);
    close("acc_norm", &tasks["piqa"]["acc_norm"], acc_norm);
    close("its error", &tasks["piqa"]["acc_norm_stderr"], norm_error);

    let one = eval("--json --limit 1 --tasks");
    let one = one.arg(format!("piqa={}", piqa.display())).model(&model);
    assert_eq!(
        one.ran().succeeded().json()["models"][0]["tasks"]["piqa"]["rows"],
        1
    );
}

fn rows(markdown: &str) -> Vec<&str> {
    markdown
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect()
}

#[test]
fn results_are_kept_and_compared() {
    let model = model_and_text();
    let out = temporary_folder();
    let file = |name: &str| out.path().join(name);
    let run = |line: &str, name: &str| -> Ran {
        let command = eval(line).line("-c 16 --chunks 1 -o").arg(file(name));
        command
            .model(&model)
            .text(&model)
            .against(&model)
            .ran()
            .succeeded()
    };
    let first = run("--quant w8a8", "w8a8.json");
    run("--quant w4a4", "w4a4.json");
    let kept = read(&file("w8a8.json"));
    let kept: Value = serde_json::from_str(&kept).expect("is JSON");
    assert_eq!(kept["models"][1]["format"], "w8a8");

    let both = plateau("eval --compare")
        .arg(file("w8a8.json"))
        .arg(file("w4a4.json"))
        .arg("-o")
        .arg(file("both.md"))
        .ran()
        .succeeded();
    assert_eq!(both.stdout, read(&file("both.md")));
    let table = rows(&both.stdout);
    // Heads and rules of two tables; the reference stands once.
    assert_eq!(table.len(), 2 + 3 + 2 + 2, "{}", both.stdout);
    assert_eq!(&table[..2].len() + 2, rows(&first.stdout)[..4].len());
    assert!(table[2].contains("(reference)") && table[3].contains("w8a8"));
    assert!(table[4].contains("w4a4"), "{}", both.stdout);

    // Models beside results: the same measurement again.
    let beside = plateau("eval --quant w4a8 -c 16 --chunks 1 --json --compare")
        .arg(model.path())
        .arg(file("w8a8.json"))
        .arg("--against")
        .arg(model.path())
        .text(&model)
        .ran()
        .succeeded()
        .json();
    let formats = ["f32", "w4a8", "w8a8"];
    for (model, format) in beside["models"]
        .as_array()
        .expect("a list")
        .iter()
        .zip(formats)
    {
        assert_eq!(model["format"], format);
    }

    let other = eval("--quant w8a8 -c 24 --chunks 1 -o").arg(file("other.json"));
    other.model(&model).text(&model).ran().succeeded();
    let refused = plateau("eval --compare")
        .arg(file("w8a8.json"))
        .arg(file("other.json"))
        .ran();
    refused.failed(USAGE);
    assert!(
        refused
            .stderr
            .contains("other.json: the windows' size: found 24, the others have 16"),
        "{}",
        refused.stderr
    );
    write_file(&file("none.json"), "{}");
    let refused = plateau("eval --compare").arg(file("none.json")).ran();
    refused.failed(USAGE);
    assert!(
        refused.stderr.contains("none.json: found"),
        "{}",
        refused.stderr
    );
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn what_cannot_be_evaluated_is_a_wrong_usage() {
    let model = model_and_text();
    let quantized = temporary_folder();
    let quantize = plateau("quantize --recipe rtn-w8a8-dynamic")
        .arg(model.path())
        .arg(quantized.path());
    quantize.ran().succeeded();
    let rows = model.path().join("rows.jsonl");
    write_file(
        &rows,
        "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n{\"goal\": 1}\n",
    );
    let piqa = format!("--tasks piqa={}", rows.display());
    let against = format!("--against {}", quantized.path().display());
    let text = format!("-f {}", model.path().join("text.txt").display());
    for (line, part) in [
        ("", "-f FILE or --tasks is needed"),
        (
            piqa.as_str(),
            "rows.jsonl, line 2: goal: found 1, expected a text",
        ),
        ("--tasks piqa", "--task-dir DIR"),
        ("--tasks boolq=a.jsonl", "no task is called 'boolq'"),
        (&format!("{text} {against}"), "a float one is expected"),
        (&format!("{text} -o results.csv"), "ends in .json or .md"),
        (
            &format!("{text} -o no/such/folder/a.md"),
            "no folder no/such/folder",
        ),
        (&format!("{text} -c 65"), "context size 65"),
        (
            &format!("{text} -c 64 --no-bos --tasks piqa=no-such-file"),
            "",
        ),
    ] {
        let ran = eval(line).model(&model).ran();
        let code = if part.is_empty() { 1 } else { USAGE };
        ran.failed(code);
        assert!(ran.stderr.contains(part), "{line}: {}", ran.stderr);
    }
}

#[test]
fn logits_that_are_not_finite_fail_the_numeric_check() {
    let model = model_and_text();
    let mut tensors = tiny::tensors();
    // Each weight is finite, their products in the head are not.
    for (name, factor) in [
        ("model.norm.weight", 1e38),
        ("model.embed_tokens.weight", 1e4),
    ] {
        let (_, values) = tensors.get_mut(name).expect("is there");
        values.iter_mut().for_each(|value| *value *= factor);
    }
    tiny::write_tensors(&model.path().join("model.safetensors"), &tensors);
    write_file(&model.path().join("piqa.jsonl"), PIQA);
    for line in [
        "eval -f TEXT",
        "eval --tasks all --task-dir FOLDER",
        "perplexity -f TEXT",
    ] {
        let line = line
            .replace("TEXT", &model.path().join("text.txt").display().to_string())
            .replace("FOLDER", &model.path().display().to_string());
        let ran = plateau(&line).line(F32).model(&model).ran();
        ran.failed(NUMERIC_CHECK);
        assert!(ran.stderr.contains("not finite"), "{}", ran.stderr);
    }
}
