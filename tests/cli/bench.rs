//! `plateau bench`: what it measures, and the files that it writes. Nothing is said about how fast anything is.

use super::{TinyModel, plateau, temporary_folder};
use plateau_tests::tolerance;
use serde_json::Value;

fn bench(model: &TinyModel, line: &str) -> super::Ran {
    plateau("bench -r 2").line(line).model(model).ran()
}

#[test]
fn every_depth_is_measured_with_every_number_of_sequences() {
    let model = TinyModel::new();
    // More sequences than rows of a step.
    bench(&model, "-p 0 -n 2 -npl 5 -ub 2").succeeded();
    let rows = bench(
        &model,
        "-p 8 -n 3 -pg 4,2 -d 0-40+20 -npl 1,3 -ub 16 -o json",
    )
    .succeeded()
    .json();
    let rows = rows.as_array().expect("is a list");
    assert_eq!(rows.len(), 3 * 2 * 3);
    let of = |row: &Value, name: &str| row[name].as_u64().expect("is a count");
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(of(row, "n_depth"), [0, 20, 40][i / 6], "{row}");
        assert_eq!(of(row, "n_parallel"), [1, 3][i / 3 % 2], "{row}");
        let (prompt, gen_tokens) = [(8, 0), (0, 3), (4, 2)][i % 3];
        assert_eq!(
            (of(row, "n_prompt"), of(row, "n_gen")),
            (prompt, gen_tokens)
        );
        let tokens = (prompt + gen_tokens) * of(row, "n_parallel");
        let samples = |name: &str| row[name].as_array().cloned().expect("is a list");
        for (ns, rate) in samples("samples_ns").iter().zip(samples("samples_ts")) {
            let expected = tokens as f64 * 1e9 / ns.as_f64().expect("is a number");
            let rate = rate.as_f64().expect("is a number");
            assert!(
                (rate / expected - 1.0).abs() <= tolerance::SAME_FORMULA.relative,
                "{row}"
            );
        }
        assert_eq!(row["first_token_p50_ms"].is_number(), prompt > 0, "{row}");
        assert_eq!(
            row["between_tokens_p99_ms"].is_number(),
            gen_tokens > 0,
            "{row}"
        );
        if gen_tokens > 0 {
            let ms = |percent: &str| row[format!("between_tokens_{percent}_ms")].as_f64();
            assert!(ms("p50") <= ms("p90") && ms("p90") <= ms("p99"), "{row}");
        }
    }
}

#[test]
fn the_table_shows_what_is_varied_and_latencies() {
    let model = TinyModel::new();
    let text = bench(&model, "-p 8 -n 2 -npl 1-2 -b 4,8 -d 4")
        .succeeded()
        .stdout;
    for word in [
        "| n_batch |",
        "npl |",
        "pp8 @ d4",
        "tg2 @ d4",
        "first token ms: p50",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let widths = |text: &str| -> Vec<usize> {
        let lines = text.lines().filter(|line| line.starts_with('|'));
        lines.map(|line| line.matches(" |").count()).collect()
    };
    let columns = widths(&text);
    // Two lines of head and a row for each of two batches, two numbers of sequences and two tests; twice.
    assert_eq!(columns, [vec![8; 10], vec![8; 10]].concat(), "{text}");
    let lines = bench(&model, "-p 8 -n 2 -o csv").succeeded().stdout;
    let (names, values) = lines.split_once('\n').expect("names, then values");
    let count = names.split(',').count();
    // A value may have commas.
    let is_whole = |line: &str| line.split("\",\"").count() == count;
    assert!(
        values.lines().count() == 2 && values.lines().all(is_whole),
        "{lines}"
    );
}

#[test]
fn several_shapes_are_measured_one_after_the_other() {
    let model = TinyModel::new();
    let config = model.path().join("config.json");
    let list = format!("{0},{0}", config.display());
    let rows = plateau("bench -p 4 -n 0 -r 1 -o jsonl --quant w8a8 --shape")
        .arg(list)
        .ran()
        .succeeded()
        .json_lines();
    assert_eq!(rows.len(), 2);
}

#[test]
fn a_profile_is_a_table_and_a_trace() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let file = folder.path().join("trace.json");
    for device in ["auto", "twin"] {
        let run = |form: &str| {
            plateau("bench -p 8 -n 2 -r 1 -o")
                .arg(form)
                .line("--device")
                .arg(device)
                .model(&model)
                .arg("--profile")
                .arg(&file)
                .ran()
                .succeeded()
        };
        let ran = run("md");
        if ran.stderr.contains("has no timestamps") {
            println!("skipped: {}", ran.stderr);
            continue;
        }
        assert!(
            ran.stdout.contains("profile of ") && ran.stdout.contains("tg2"),
            "{}",
            ran.stdout
        );
        assert!(ran.stdout.contains("| kernel "), "{}", ran.stdout);
        let ran = run("json");
        assert_eq!(ran.json().as_array().map(Vec::len), Some(2));
        assert!(ran.stderr.contains("| kernel "), "{}", ran.stderr);
        let text = std::fs::read_to_string(&file).expect("the trace was written");
        let trace: Value = serde_json::from_str(&text).expect("is JSON");
        let events = trace["traceEvents"].as_array().expect("is a list");
        let of = |category: &str| -> Vec<&Value> {
            events
                .iter()
                .filter(|event| event["cat"] == category)
                .collect()
        };
        // One for the prompt; one for each of two tokens and the first.
        let submissions = of("submission");
        assert_eq!(submissions.len(), 4, "{text}");
        let dispatches = of("dispatch");
        let counted = submissions
            .iter()
            .map(|event| event["args"]["dispatches"].as_u64());
        assert_eq!(counted.sum::<Option<u64>>(), Some(dispatches.len() as u64));
        for event in dispatches {
            assert_eq!(event["ph"], "X");
            assert!(
                event["ts"].is_number() && event["dur"].is_number(),
                "{event}"
            );
            assert!(event["args"]["label"].is_string(), "{event}");
        }
    }
}

#[test]
fn a_plot_is_a_drawing_of_every_test() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let file = folder.path().join("plot.svg");
    let command = plateau("bench -p 4,8,16 -n 2 -r 2 --plot").arg(&file);
    let ran = command.model(&model).ran().succeeded();
    let text = std::fs::read_to_string(&file).expect("the plot was written");
    assert!(
        text.starts_with("<svg ") && text.ends_with("</svg>\n"),
        "{text}"
    );
    assert_eq!(text.matches("<circle").count(), 4, "{text}");
    for word in [
        "prompt, tokens/s",
        "continuation, tokens/s",
        ">16</text>",
        "device: ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(ran.stderr.contains("plot.svg"), "{}", ran.stderr);
}

#[test]
fn a_file_that_cannot_be_written_is_said_before_anything_is_measured() {
    let model = TinyModel::new();
    for option in ["--plot", "--profile"] {
        let command = plateau("bench -p 8 -n 0").arg(option);
        let ran = command
            .arg(model.path().join("no/such.file"))
            .model(&model)
            .ran();
        ran.failed(1);
        assert!(ran.stderr.contains("such.file"), "{}", ran.stderr);
    }
}

#[test]
fn verbose_counts_dispatches() {
    let model = TinyModel::new();
    let ran = bench(&model, "-p 0 -n 2 --verbose").succeeded();
    let line = ran
        .stderr
        .lines()
        .find(|line| line.starts_with("decode step of 1: "));
    let line = line.expect("a line for a decode step");
    for word in ["dispatches", "in each of 2 layers", "outside", "self_attn"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    // The context of this test has 12 tokens.
    let step = "prompt step of 12: ";
    assert!(ran.stderr.contains(step), "{}", ran.stderr);
}
