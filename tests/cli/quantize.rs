//! `plateau quantize` with sample text: what it says, writes and refuses.

use crate::{Plateau, TinyModel, USAGE, plateau, temporary_folder, write_file};
use serde_json::Value;

const TEXT: &str = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, \
    and nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the world.";

fn quantize(model: &TinyModel, out: &std::path::Path, line: &str) -> Plateau {
    let text = model.path().join("sample.txt");
    write_file(&text, TEXT.repeat(4));
    plateau("quantize --device twin --seqlen 32 --nsamples 6 --calib")
        .arg(text)
        .line(line)
        .arg(model.path())
        .arg(out)
}

#[test]
fn a_calibrated_copy_is_loaded_and_described() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let (out, report) = (folder.path().join("out"), folder.path().join("report.json"));
    let ran = quantize(&model, &out, "--inject-outliers")
        .arg("--report")
        .arg(&report)
        .ran()
        .succeeded();
    assert!(ran.stderr.contains("flattenquant-w4a8"), "{}", ran.stderr);
    let text = std::fs::read_to_string(&report).expect("the report");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["recipe"], "flattenquant-w4a8");
    assert_eq!(report["injected_outliers"], "0.02,5,60");
    assert_eq!(report["calibration"]["file"], "sample.txt");
    assert_eq!(report["calibration"]["windows"], 6);
    assert_eq!(report["calibration"]["tokens_per_window"], 32);
    let layers = report["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    for linear in layers
        .iter()
        .flat_map(|l| l["linears"].as_array().expect("linears"))
    {
        assert_eq!(linear["weight_bits"], 4, "{linear}");
        assert_eq!(linear["activation_bits"], 8, "{linear}");
        assert!(
            linear["threshold"].as_f64().is_some_and(|t| t > 0.0),
            "{linear}"
        );
        let [kept, rounding] = ["gptq_error", "rounding_error"].map(|of| linear[of].as_f64());
        assert!(kept.is_some() && kept <= rounding, "{linear}");
    }
    let card = std::fs::read_to_string(out.join("README.md")).expect("a model card");
    for words in ["flattenquant-w4a8", "sample.txt", "mlp.down_proj"] {
        assert!(card.contains(words), "{words}: {card}");
    }
    let inspected = plateau("inspect --json").arg(&out).ran().succeeded().json();
    assert_eq!(inspected["format"], "w4a8g32");
    let generated =
        plateau("generate --device twin --temp 0 -n 4 --ignore-eos -p text -m").arg(&out);
    generated.ran().succeeded();
}

#[test]
fn a_dry_run_says_the_size_and_writes_nothing() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let out = folder.path().join("out");
    let dry = quantize(&model, &out, "--dry-run").ran().succeeded();
    assert!(!out.exists());
    assert!(dry.stdout.contains("down_proj"), "{}", dry.stdout);
    assert!(dry.stderr.contains("not written"), "{}", dry.stderr);
    let said = |stderr: &str| stderr.split(": ").last().map(str::to_owned);
    let wet = quantize(&model, &out, "").ran().succeeded();
    assert_eq!(said(&dry.stderr), said(&wet.stderr));
}

#[test]
fn knobs_change_what_is_chosen() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let table = |line: &str| {
        let out = folder.path().join("out");
        let ran = quantize(
            &model,
            &out,
            &format!("--dry-run --recipe flattenquant {line}"),
        );
        ran.ran().succeeded().stdout
    };
    // The limit of the divergence: nothing within 0.001 times INT8's, everything within a million.
    let (none, all) = (table("--kl-limit 0.001"), table("--kl-limit 1000000"));
    assert_ne!(none, all);
    assert_ne!(table("--parts none"), table("--parts search"));
    assert_ne!(
        table("--parts cover --added-int8 3 --added-int4 3"),
        table("--parts none")
    );
    let out = folder.path().join("out");
    for (line, words) in [
        ("--kl-limit 2", "mix INT4 and INT8"),
        ("--recipe rtn-w8a8 --refit on", "needs GPTQ"),
        ("--activations dynamic --refit on", "static"),
        (
            "--recipe flattenquant --activations float",
            "mixes widths of activations",
        ),
    ] {
        let ran = quantize(&model, &out, line).ran();
        ran.failed(USAGE);
        assert!(ran.stderr.contains(words), "{line}: {}", ran.stderr);
    }
    let [with, without] = ["on", "off"].map(|refit| {
        let out = folder.path().join(refit);
        quantize(&model, &out, &format!("--refit {refit}"))
            .ran()
            .succeeded();
        std::fs::read(out.join("model.safetensors")).expect("the tensors")
    });
    assert!(with != without);
}

#[test]
fn float_activations_are_said() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let out = folder.path().join("out");
    quantize(&model, &out, "--recipe gptq-w4a16")
        .ran()
        .succeeded();
    let inspected = plateau("inspect --json").arg(&out).ran().succeeded().json();
    assert_eq!(inspected["format"], "w4a16g32");
    let default = &inspected["quantization"]["default"];
    assert_eq!(default["activation_scale"], "float");
    assert!(default["activation_bits"].is_null());
    let text = plateau("inspect").arg(&out).ran().succeeded().stdout;
    assert!(text.contains("float activations"), "{text}");
    let card = std::fs::read_to_string(out.join("README.md")).expect("a model card");
    assert!(
        card.contains("INT4 in groups of 32 | float |"),
        "the linears' activations: {card}"
    );
    let generated =
        plateau("generate --device twin --temp 0 -n 4 --ignore-eos -p text -m").arg(&out);
    generated.ran().succeeded();
}

#[test]
fn bits_per_weight_are_those_that_inspect_and_eval_count() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    let inspected = |folder: &std::path::Path| {
        let json = plateau("inspect --json")
            .arg(folder)
            .ran()
            .succeeded()
            .json();
        let of = |key: &str| json[key].as_u64().expect("a number");
        (of("parameters"), of("tensor_bytes"))
    };
    let (parameters, _) = inspected(model.path());
    let whole = folder.path().join("whole");
    quantize(&model, &whole, "--activations dynamic --target-bpw 100")
        .ran()
        .succeeded();
    let (_, most) = inspected(&whole);
    // A header of this tiny model weighs as much as a third of its tensors.
    let file = |folder: &std::path::Path| {
        let file = std::fs::metadata(folder.join("model.safetensors"));
        file.expect("the tensors").len()
    };
    let bits = 8.0 * file(&whole) as f64 / parameters as f64;
    let out = folder.path().join("out");
    let line = format!("--activations dynamic --target-bpw {bits}");
    quantize(&model, &out, &line).ran().succeeded();
    assert!(inspected(&out).1 < most);
    assert!(file(&out) < file(&whole));
    let ran = quantize(&model, &out, "--target-bpw 4 --target-size 1").ran();
    ran.failed(USAGE);
}
