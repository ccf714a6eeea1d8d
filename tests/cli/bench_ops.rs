//! `plateau bench-ops`: its modes, filters and forms. Nothing is said about how fast anything is.

use super::plateau;
use serde_json::Value;

fn rows(line: &str) -> Vec<Value> {
    let json = plateau("bench-ops -o json")
        .line(line)
        .ran()
        .succeeded()
        .json();
    json.as_array().expect("is a list").clone()
}

#[test]
fn a_test_compares_the_cases_that_a_filter_names() {
    let found = rows("test --filter rms_norm.*rows=1");
    assert!(found.len() > 1, "{found:?}");
    for row in &found {
        assert!(
            row["kernel"]
                .as_str()
                .is_some_and(|name| name.contains("rms_norm")),
            "{row}"
        );
        assert_eq!(row["status"], "OK", "{row}");
        assert_eq!(row["seed"], 0, "{row}");
        assert!(
            row["adapter"].is_string() && row["driver"].is_string(),
            "{row}"
        );
    }
    // The whole name is that case alone, also where it begins others, and with what is special in an expression.
    let command = plateau("bench-ops test --seed 9 -o json --filter");
    let name = "gemv_i8 rows=1 in=31 out=7 Uniform group=0 bias=false accumulate=false \
                x_per_tensor=false w_per_tensor=false split=(0, 0) raw=true";
    let one = command.arg(name).ran().succeeded().json();
    assert_eq!(one.as_array().map(Vec::len), Some(1), "{one}");
    assert_eq!(one[0]["seed"], 9);
    let table = plateau("bench-ops test --filter argmax")
        .ran()
        .succeeded()
        .stdout;
    assert!(
        table.starts_with("| kernel ") && table.contains(" OK\ndevice: "),
        "{table}"
    );
    let csv = plateau("bench-ops test --filter argmax -o csv")
        .ran()
        .succeeded()
        .stdout;
    assert!(
        csv.starts_with("mode,kernel,case,status,why,seed,"),
        "{csv}"
    );
}

#[test]
fn perf_measures_the_peaks_and_what_was_asked_for() {
    let found = rows("perf --budget 0.05 --filter silu_mul");
    let kernels: Vec<&str> = found
        .iter()
        .filter_map(|row| row["kernel"].as_str())
        .collect();
    let peaks = [
        "peak_copy",
        "peak_read",
        "peak_dot4",
        "peak_f32",
        "peak_f16",
        "peak_coop16",
        "peak_coop16_int8",
    ];
    assert_eq!(kernels[..peaks.len()], peaks);
    assert!(kernels.len() > peaks.len() + 1, "{kernels:?}");
    assert!(
        kernels[peaks.len()..]
            .iter()
            .all(|kernel| kernel.starts_with("silu_mul"))
    );
    for row in found[peaks.len()..]
        .iter()
        .filter(|row| row["status"] == "OK")
    {
        for field in ["us", "chained_us", "gb_s", "copy_percent", "read_percent"] {
            assert!(
                row[field].as_f64().is_some_and(|value| value > 0.0),
                "{field}: {row}"
            );
        }
    }
    let bounds = [None, None, Some("dot4"), Some("f32")];
    for (row, peak) in found.iter().zip(bounds) {
        assert_eq!(row["status"], "OK", "{row}");
        assert_eq!(row["peak"], Value::from(peak), "{row}");
    }
    // Not every adapter has these.
    for (row, peak) in found[4..].iter().zip(["f16", "coop", "coop-int8"]) {
        assert!(row["status"] != "FAIL", "{row}");
        assert_eq!(row["peak"], peak, "{row}");
    }
}

#[test]
fn support_lists_every_variant() {
    let found = rows("support");
    let is = |row: &&Value, kernel: &str, variant: &str| {
        row["kernel"] == kernel && row["variant"] == variant
    };
    for (kernel, variant) in [("argmax", ""), ("gemm_i4", "GROUP_SIZE=32")] {
        assert!(
            found.iter().any(|row| is(&row, kernel, variant)),
            "{kernel} {variant}"
        );
    }
    for row in &found {
        match row["status"].as_str() {
            Some("OK") => assert_eq!(row["why"], "", "{row}"),
            Some("not supported") => assert_ne!(row["why"], "", "{row}"),
            _ => panic!("{row}"),
        }
    }
    let twin = rows("support --device twin --filter argmax");
    assert_eq!(twin[0]["adapter"], "CPU twins");
}

/// With an NVIDIA GPU it is compared; without, the line says what is missing, and no case counts as passed.
#[test]
fn against_cuda_says_what_is_missing() {
    let ran = plateau("bench-ops test --against cuda --filter argmax.*vocab=63 -o json").ran();
    if ran.code == Some(0) {
        assert!(
            ran.stdout.contains("\"against\": \"cuda\""),
            "{}",
            ran.stdout
        );
    } else {
        ran.failed(5);
        assert!(ran.stderr.contains(" was not found ("), "{}", ran.stderr);
    }
}
