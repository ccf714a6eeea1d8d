//! The binary, as a user runs it.

mod bad_input;
mod bench;
mod bench_ops;
mod eval;
mod quantize;
mod tiny;

use plateau_tests::tolerance;
use safetensors::SafeTensors;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const NO_DEVICE: i32 = 5;

/// The binary of this build, made or brought up to date once: cargo does not build it for another package's tests.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // TARGET/PROFILE/deps/cli-HASH
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test
            .ancestors()
            .nth(2)
            .expect("cargo puts tests into TARGET/PROFILE/deps");
        let target = profile.parent().expect("cargo puts profiles into TARGET");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([
                "build",
                "--quiet",
                "--package",
                "plateau-cli",
                "--target-dir",
            ])
            .arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs this test");
        assert!(status.success(), "plateau-cli does not build");
        profile
            .join("plateau")
            .with_extension(std::env::consts::EXE_EXTENSION)
    })
}

/// A command line of the binary.
struct Plateau(Command);

/// The command line with the words of `line`.
fn plateau(line: &str) -> Plateau {
    let mut command = Command::new(binary());
    command
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Plateau(command)
}

impl Plateau {
    /// One more word, which may have spaces.
    fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.0.arg(word);
        self
    }

    /// More words.
    fn line(mut self, line: &str) -> Self {
        self.0.args(line.split_whitespace());
        self
    }

    fn model(self, model: &TinyModel) -> Self {
        self.arg("-m").arg(model.path())
    }

    fn start(mut self) -> Child {
        self.0.spawn().expect("the binary runs")
    }

    fn ran(self) -> Ran {
        Ran::new(self.start())
    }

    /// With `text` on stdin.
    fn ran_with_stdin(mut self, text: &str) -> Ran {
        self.0.stdin(Stdio::piped());
        let mut child = self.start();
        let mut stdin = child.stdin.take().expect("was asked for");
        stdin
            .write_all(text.as_bytes())
            .expect("the binary reads its stdin");
        drop(stdin);
        Ran::new(child)
    }
}

/// A command that ended.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Waits for the end.
    fn new(child: Child) -> Self {
        let output = child.wait_with_output().expect("the binary ends");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is whole UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is whole UTF-8"),
        }
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// One line says what is wrong, and nothing went to stdout.
    #[track_caller]
    fn failed(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let errors = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("plateau: error: "))
            .count();
        assert_eq!(errors, 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.stdout, "");
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    #[track_caller]
    fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// A folder with the tiny model; it is gone when dropped.
struct TinyModel(TempDir);

impl TinyModel {
    fn new() -> Self {
        let folder = temporary_folder();
        tiny::write(folder.path());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn temporary_folder() -> TempDir {
    tempfile::tempdir().expect("the temporary folder can be written")
}

fn write_file(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).expect("the temporary folder can be written");
}

const PROMPT: &str = "Once upon a time";

/// Greedy text of the built-in model.
fn greedy(line: &str) -> Ran {
    plateau("generate --temp 0 -n 12")
        .line(line)
        .arg("-p")
        .arg(PROMPT)
        .ran()
        .succeeded()
}

#[test]
fn greedy_text_is_the_same_each_time_and_alone_on_stdout() {
    let first = greedy("");
    assert!(!first.stdout.trim().is_empty());
    assert!(
        !first.stdout.starts_with(PROMPT) && !first.stdout.contains("tokens/s"),
        "{}",
        first.stdout
    );
    assert!(first.stderr.contains("tokens/s"), "{}", first.stderr);
    // Which device, and why.
    assert!(first.stderr.lines().count() >= 2, "{}", first.stderr);
    // No bar where stderr is no terminal.
    assert!(!first.stderr.contains(['\r', '\x1b']), "{}", first.stderr);
    assert!(!first.stderr.contains("seed"), "{}", first.stderr);
    let quiet = greedy("-q");
    assert_eq!(quiet.stdout, first.stdout);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_stdin() {
    let expected = greedy("").stdout;
    let generate = || plateau("generate --temp 0 -n 12");
    assert_eq!(generate().arg(PROMPT).ran().succeeded().stdout, expected);
    let folder = temporary_folder();
    let file = folder.path().join("prompt.txt");
    write_file(&file, format!("{PROMPT}\n"));
    assert_eq!(
        generate().arg("-f").arg(&file).ran().succeeded().stdout,
        expected
    );
    for line in ["-", "-f -"] {
        let ran = generate()
            .line(line)
            .ran_with_stdin(&format!("{PROMPT}\n"))
            .succeeded();
        assert_eq!(ran.stdout, expected, "{line}");
    }
    write_file(&file, [b'a', 0xff]);
    generate().arg("-f").arg(&file).ran().failed(USAGE);
    write_file(&file, "\n");
    generate().arg("-f").arg(&file).ran().failed(USAGE);
    generate().arg("").ran().failed(USAGE);
    generate().arg("-p").arg("").ran().failed(USAGE);
    generate().arg("-").ran().failed(USAGE);
}

#[test]
fn json_is_one_object_per_line() {
    let text = greedy("").stdout;
    let lines = greedy("--json").json_lines();
    let (end, pieces) = lines.split_last().expect("there is an end");
    assert!(pieces.len() >= 12, "{lines:?}");
    let joined: String = pieces
        .iter()
        .map(|piece| piece["text"].as_str().expect("each has text"))
        .collect();
    assert_eq!(joined, text);
    assert!(
        pieces[..12].iter().all(|piece| piece["id"].is_u64()),
        "{lines:?}"
    );
    assert_eq!(end["text"], text.as_str());
    assert_eq!(end["finish"], "length");
    assert_eq!(end["new_tokens"], 12);
    assert!(
        end["prompt_tokens"]
            .as_u64()
            .is_some_and(|tokens| tokens > 1),
        "{end}"
    );
    assert!(
        end["new_tokens_per_second"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0),
        "{end}"
    );
    assert!(end["seed"].is_null(), "{end}");
}

#[test]
fn a_seed_gives_the_same_text_and_without_one_it_is_printed() {
    let with = |line: &str| {
        plateau("generate -n 12")
            .line(line)
            .arg(PROMPT)
            .ran()
            .succeeded()
    };
    let first = with("-s 7");
    assert_eq!(with("--seed 7").stdout, first.stdout);
    assert!(first.stderr.contains("seed 7"), "{}", first.stderr);
    let unseeded = with("");
    let seed = unseeded
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("seed "))
        .expect("the seed is printed");
    assert_eq!(with(&format!("-s {seed}")).stdout, unseeded.stdout);
}

#[test]
fn minus_one_goes_on_to_the_end_of_the_context() {
    let model = TinyModel::new();
    let run = |line: &str| {
        plateau("generate --temp 0 -n -1 --ignore-eos -c 32 -p text")
            .line(line)
            .model(&model)
            .ran()
            .succeeded()
    };
    let ran = run("");
    assert!(
        ran.stderr.contains("context of 32 tokens is full"),
        "{}",
        ran.stderr
    );
    let lines = run("--json").json_lines();
    let end = lines.last().expect("there is an end");
    assert_eq!(end["finish"], "context_full");
    assert_eq!(end["text"], ran.stdout.as_str());
    let tokens = |name: &str| end[name].as_u64().expect("is a count");
    assert_eq!(tokens("prompt_tokens"), 5);
    // The last token needs no place in the context.
    assert_eq!(tokens("prompt_tokens") + tokens("new_tokens"), 33);
}

#[test]
fn an_end_token_ends_the_text() {
    let model = TinyModel::new();
    let lines = |line: &str| {
        plateau("generate --temp 0 -n 8 --json -p text")
            .line(line)
            .model(&model)
            .ran()
            .succeeded()
            .json_lines()
    };
    let ids: Vec<u64> = lines("--ignore-eos")
        .iter()
        .filter_map(|line| line["id"].as_u64())
        .collect();
    // Any token can be the end token: here the third that comes.
    let end = ids[2];
    let first = ids
        .iter()
        .position(|&id| id == end)
        .expect("is one of them");
    let generation = serde_json::json!({ "bos_token_id": tiny::BOS, "eos_token_id": [end] });
    tiny::write_json(&model.path().join("generation_config.json"), &generation);
    let ended = lines("");
    assert_eq!(
        ended.iter().filter(|line| line["id"].is_u64()).count(),
        first
    );
    assert_eq!(
        ended.last().expect("there is an end")["finish"],
        "end_token"
    );
    assert_eq!(
        lines("--ignore-eos").last().expect("there is an end")["finish"],
        "length"
    );
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let text = greedy("").stdout;
    let middle = text
        .char_indices()
        .map(|(at, _)| at)
        .nth(text.chars().count() / 2)
        .expect("has a middle");
    let stop: String = text[middle..].chars().take(3).collect();
    let end = text.find(&stop).expect("is part of the text");
    let generate = || {
        plateau("generate --temp 0 -n 12 --stop never --stop")
            .arg(&stop)
            .arg(PROMPT)
    };
    assert_eq!(generate().ran().succeeded().stdout, text[..end]);
    let lines = generate().arg("--json").ran().succeeded().json_lines();
    assert_eq!(
        lines.last().expect("there is an end")["finish"],
        "stop_string"
    );
}

#[test]
fn the_twins_choose_the_same_tokens() {
    // In floats: a last bit of difference can tip the rounding of an INT8 activation, and with it a close choice.
    let model = TinyModel::new();
    let generate = |device: &str| {
        let command = plateau(
            "generate --temp 0 -n 24 --ignore-eos --quant f32 --kv-type f32 -p text --device",
        );
        command.arg(device).model(&model).ran().succeeded()
    };
    let auto = generate("auto");
    for device in ["twin", "CPU"] {
        let twin = generate(device);
        assert_eq!(twin.stdout, auto.stdout);
        assert!(
            twin.stderr.to_lowercase().contains("twin"),
            "{}",
            twin.stderr
        );
    }
}

#[test]
fn what_cannot_be_done_is_a_wrong_usage() {
    let model = TinyModel::new();
    let empty = model.path().join("empty.txt");
    write_file(&empty, "");
    for line in [
        "generate",
        "generate -c 4 one-two-three-four-five-six-seven-eight-nine-ten",
        "generate -c 1000000 text",
        "generate --temp -1 text",
        "generate --quant w8a8 text",
        "generate -fa text",
        "generate -ctk f16 -ctv f32 text",
        "logits -m MODEL --ids 261 -o MODEL/logits.safetensors",
        "perplexity -m MODEL -f EMPTY",
        "bench -p 0 -n 0",
        "bench -m MODEL -p 4 -n 0 -d 61",
        "bench --shape llama2-7b,unknown",
        "bench-ops --device twin",
        "bench-ops test --device twin",
        "bench-ops test --filter [",
        "bench-ops test --filter no-such-kernel",
        "bench-ops perf --filter no-such-kernel",
        "bench-ops support --filter no-such-kernel",
        "bench -m MODEL -p 65 -n 0",
        "bench --shape unknown",
        "quantize MODEL MODEL --recipe rtn-w4a8",
        "quantize MODEL MODEL --recipe rtn-w4a8 --force",
        "quantize MODEL MODEL/new --recipe flattenquant-w4a8",
        "inspect -c 1000000",
    ] {
        let place = |word: &str| match word {
            "MODEL" => model.path().to_owned(),
            "EMPTY" => empty.clone(),
            word => word
                .strip_prefix("MODEL/")
                .map_or_else(|| word.into(), |file| model.path().join(file)),
        };
        let ran = line
            .split_whitespace()
            .fold(plateau(""), |command, word| command.arg(place(word)))
            .ran();
        assert_eq!(ran.code, Some(USAGE), "{line}: {}", ran.stderr);
        ran.failed(USAGE);
    }
    assert!(!model.path().join("logits.safetensors").exists());
    assert!(!model.path().join("logits.safetensors.partial").exists());
    assert!(!model.path().join("new").exists());
}

#[test]
fn a_prompt_without_quotes_gets_a_hint() {
    let ran = plateau("generate Once upon a time").ran();
    ran.failed(USAGE);
    assert!(ran.stderr.contains("needs quotes"), "{}", ran.stderr);
    let ran = plateau("generate --tmp 1 text").ran();
    ran.failed(USAGE);
    assert!(!ran.stderr.contains("needs quotes"), "{}", ran.stderr);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    for device in ["no-such-adapter", "999", "-1"] {
        let ran = plateau("generate text --device").arg(device).ran();
        ran.failed(NO_DEVICE);
        assert!(
            ran.stderr.contains(device) && ran.stderr.contains("plateau devices"),
            "{}",
            ran.stderr
        );
        // llama.cpp's word for the same.
        plateau("bench -dev").arg(device).ran().failed(NO_DEVICE);
    }
}

#[test]
fn a_model_that_is_not_there_is_named_by_every_command() {
    for line in [
        "generate text -m no/such/model",
        "inspect no/such/model",
        "logits --ids 1 -o logits.safetensors -m no/such/model",
        "bench -m no/such/model",
        "quantize no/such/model never-written --recipe rtn-w4a8",
    ] {
        let ran = plateau(line).ran();
        ran.failed(NOT_FOUND);
        assert!(
            ran.stderr.contains("no/such/model"),
            "{line}: {}",
            ran.stderr
        );
    }
}

/// Mean loss of predicting `ids[t]` from the logits of `t - 1`, for each t from `first` on.
fn mean_loss(logits: &[f32], ids: &[u32], first: usize) -> f64 {
    let losses = (first..ids.len()).map(|t| {
        let row = &logits[(t - 1) * tiny::VOCAB..t * tiny::VOCAB];
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(row[ids[t] as usize])
    });
    losses.sum::<f64>() / (ids.len() - first) as f64
}

/// What `plateau logits` writes for `ids`.
fn logits(model: &TinyModel, ids: &[u32]) -> Vec<f32> {
    logits_in("--quant f32 --kv-type f32", model, ids)
}

/// [`logits`] with other formats.
fn logits_in(formats: &str, model: &TinyModel, ids: &[u32]) -> Vec<f32> {
    let out = model.path().join("logits.safetensors");
    let words = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let command = plateau("logits").line(formats).arg("--ids").arg(words);
    command.arg("-o").arg(&out).model(model).ran().succeeded();
    let bytes = std::fs::read(&out).expect("was written");
    let tensors = SafeTensors::deserialize(&bytes).expect("is safetensors");
    let tensor = tensors.tensor("logits").expect("holds logits");
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    assert_eq!(tensor.shape(), [ids.len(), tiny::VOCAB]);
    let words = tensor.data().chunks_exact(4);
    words
        .map(|word| f32::from_le_bytes(word.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn perplexity_is_what_the_logits_say() {
    const WINDOW: usize = 16;
    let model = TinyModel::new();
    let text = "It was a bright cold day in April, and the clocks were striking thirteen.";
    let file = model.path().join("text.txt");
    write_file(&file, text);
    let measured = |line: &str, tokens: usize, expected: f64| {
        let command = plateau("perplexity --quant f32 --kv-type f32 -c 16 --json").line(line);
        let measured = command
            .arg("-f")
            .arg(&file)
            .model(&model)
            .ran()
            .succeeded()
            .json();
        assert_eq!(measured["tokens"], tokens, "{line}");
        for (name, expected) in [("nll", expected), ("perplexity", expected.exp())] {
            let found = measured[name].as_f64().expect("is a number");
            let limit = tolerance::LOSS_OF_SAME_LOGITS.relative * expected;
            assert!(
                (found - expected).abs() <= limit,
                "{line}: {name} is {found}, not {expected}"
            );
        }
    };

    let ids = tiny::ids(text);
    let windows: Vec<&[u32]> = ids.chunks_exact(WINDOW).collect();
    assert_eq!(windows.len(), 4);
    let losses: Vec<f64> = windows
        .iter()
        .map(|ids| mean_loss(&logits(&model, ids), ids, 1))
        .collect();
    measured("--no-bos", 4 * 15, losses.iter().sum::<f64>() / 4.0);
    measured("--no-bos --chunks 1", 15, losses[0]);
    let second_half = mean_loss(&logits(&model, windows[0]), windows[0], WINDOW / 2 + 1);
    measured("--no-bos --chunks 1 --score second-half", 7, second_half);

    let with_bos: Vec<u32> = std::iter::once(tiny::BOS)
        .chain(ids[..15].iter().copied())
        .collect();
    measured(
        "--chunks 1",
        15,
        mean_loss(&logits(&model, &with_bos), &with_bos, 1),
    );
}

#[test]
fn bench_has_the_fields_and_tests_of_llama_bench() {
    let model = TinyModel::new();
    let bench = |line: &str| {
        plateau("bench -p 16 -n 4 -r 2")
            .line(line)
            .model(&model)
            .ran()
            .succeeded()
    };
    let rows = bench("-o json -pg 8,4 -ub 8").json();
    let rows = rows.as_array().expect("is a list");
    let tests: Vec<_> = rows
        .iter()
        .map(|row| (row["n_prompt"].clone(), row["n_gen"].clone()))
        .collect();
    assert_eq!(
        tests,
        [
            (16.into(), 0.into()),
            (0.into(), 4.into()),
            (8.into(), 4.into())
        ]
    );
    for row in rows {
        assert_eq!(row["samples_ns"].as_array().map(Vec::len), Some(2), "{row}");
        assert!(
            row["avg_ts"].as_f64().is_some_and(|rate| rate > 0.0),
            "{row}"
        );
        assert_eq!(row["n_ubatch"], 8);
        for field in [
            "build_commit",
            "gpu_info",
            "backends",
            "model_filename",
            "model_size",
            "test_time",
        ] {
            assert!(row.get(field).is_some(), "{field}: {row}");
        }
    }
    assert_eq!(bench("-o jsonl").json_lines().len(), 2);
    assert_eq!(bench("-o csv").stdout.lines().count(), 3);
    let table = bench("").stdout;
    for word in ["| model", "pp16", "tg4", " ± ", "device: "] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn bench_needs_only_a_shape() {
    let model = TinyModel::new();
    for quant in ["f32", "f16", "w8a8", "w4a8", "w4a4"] {
        let command = plateau("bench -p 8 -n 2 -r 1 -o json --quant").arg(quant);
        let shape = model.path().join("config.json");
        let rows = command.arg("--shape").arg(shape).ran().succeeded().json();
        assert_eq!(rows.as_array().map(Vec::len), Some(2), "{quant}");
        assert!(
            rows[0]["model_type"]
                .as_str()
                .is_some_and(|name| name.ends_with(quant)),
            "{rows}"
        );
    }
}

#[test]
fn devices_end_with_the_twins() {
    let devices = plateau("devices --json").ran().succeeded().json();
    assert!(devices["twin"].is_object(), "{devices}");
    let adapters = devices["adapters"].as_array().expect("is a list");
    for adapter in adapters {
        for field in [
            "index", "name", "backend", "kind", "driver", "features", "limits", "kernels",
        ] {
            assert!(adapter.get(field).is_some(), "{field}: {adapter}");
        }
    }
    let text = plateau("devices").ran().succeeded().stdout;
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("twin")),
        "{text}"
    );
    if adapters
        .iter()
        .all(|adapter| !adapter["unusable"].is_null())
    {
        assert!(text.contains("mesa-vulkan-drivers"), "{text}");
    }
}

#[test]
fn inspect_shows_tensors_and_the_memory_that_a_context_needs() {
    let model = TinyModel::new();
    let inspect = |line: &str| {
        plateau("inspect --json")
            .line(line)
            .model(&model)
            .ran()
            .succeeded()
            .json()
    };
    let of = inspect("-c 64");
    assert_eq!(of["architecture"], "llama");
    assert!(of["quantization"].is_null());
    let tensors = of["tensors"].as_array().expect("is a list");
    assert_eq!(tensors.len(), tiny::tensors().len());
    let is_embedding = |tensor: &&Value| tensor["name"] == "model.embed_tokens.weight";
    let embedding = tensors.iter().find(is_embedding).expect("is there");
    assert_eq!(embedding["dtype"], "F32");
    assert_eq!(embedding["shape"], serde_json::json!([tiny::VOCAB, 24]));
    let parameters: usize = tiny::tensors()
        .values()
        .map(|(_, values)| values.len())
        .sum();
    assert_eq!(of["parameters"], parameters);
    let bytes = |of: &Value, name: &str| of["memory"][name].as_u64().expect("is a count");
    assert!(bytes(&of, "total") > 0);
    assert!(bytes(&inspect("--kv-type f32"), "kv_cache") > bytes(&of, "kv_cache"));
    assert!(bytes(&inspect("--quant f32"), "weights") > bytes(&of, "weights"));

    let builtin = plateau("inspect").ran().succeeded().stdout;
    for word in ["w4a8", "model.embed_tokens", "memory", "MiB"] {
        assert!(builtin.contains(word), "{word}: {builtin}");
    }
}

#[test]
fn a_quantized_copy_gives_the_text_of_rounding_at_load() {
    let model = TinyModel::new();
    let folder = temporary_folder();
    for (quant, recipe) in [
        ("w8a8", "--recipe rtn-w8a8-dynamic"),
        ("w4a8", "--recipe rtn-w4a8 --group-size 0"),
    ] {
        let out = folder.path().join(quant);
        let quantize = || {
            plateau("quantize")
                .line(recipe)
                .arg(model.path())
                .arg(&out)
                .ran()
        };
        quantize().succeeded();
        // A second time there is something to lose.
        quantize().failed(USAGE);
        let generate =
            |folder: &Path| plateau("generate --temp 0 -n 8 --ignore-eos -p text -m").arg(folder);
        let copy = generate(&out).ran().succeeded();
        let rounded = generate(model.path())
            .arg("--quant")
            .arg(quant)
            .ran()
            .succeeded();
        assert_eq!(copy.stdout, rounded.stdout, "{quant}");
        let again = generate(&out).arg("--quant").arg(quant).ran();
        again.failed(USAGE);
        assert!(
            again.stderr.contains("quantized already"),
            "{}",
            again.stderr
        );
        let of = plateau("inspect --json").arg(&out).ran().succeeded().json();
        assert_eq!(of["format"], quant);
        let twice = plateau("quantize --recipe rtn-w4a8").arg(&out);
        let twice = twice.arg(folder.path().join("twice")).ran();
        twice.failed(USAGE);
        assert!(
            twice.stderr.contains("needs the float model"),
            "{}",
            twice.stderr
        );
    }
}

#[test]
fn a_quantized_copy_can_be_forced_beside_other_files() {
    let model = TinyModel::new();
    let out = temporary_folder();
    let notes = out.path().join("notes.txt");
    write_file(&notes, "mine");
    let quantize = |line: &str| {
        let command = plateau("quantize --recipe rtn-w4a8").line(line);
        command.arg(model.path()).arg(out.path()).ran()
    };
    quantize("").failed(USAGE);
    quantize("--force").succeeded();
    assert_eq!(
        std::fs::read(notes).ok().as_deref(),
        Some(b"mine".as_slice())
    );
    plateau("generate -n 2 -p text -m")
        .arg(out.path())
        .ran()
        .succeeded();
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = plateau("completions").arg(shell).ran().succeeded().stdout;
        assert!(
            script.contains("perplexity") && script.contains("kv-type"),
            "{shell}"
        );
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let help = plateau("--help").ran().succeeded().stdout;
    for word in ["Examples:", "Exit codes:", "130"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for command in [
        "generate",
        "devices",
        "inspect",
        "logits",
        "perplexity",
        "bench",
        "bench-ops",
        "quantize",
        "completions",
    ] {
        assert!(help.contains(command), "{command}: {help}");
        let help = plateau(command).arg("--help").ran().succeeded().stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let model = TinyModel::new();
    for line in [
        "generate --ignore-eos -n 40 -p text",
        "inspect",
        "logits --ids 1 -o",
        "completions bash",
        "--help",
    ] {
        let command = plateau("-q").line(line);
        let command = match line.split(' ').next() {
            Some("logits") => command
                .arg(model.path().join("logits.safetensors"))
                .model(&model),
            Some("generate" | "inspect") => command.model(&model),
            _ => command,
        };
        let mut child = command.start();
        drop(child.stdout.take());
        let ran = Ran::new(child);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_text_after_the_token_at_hand() {
    // The twins are slow enough to be interrupted.
    let command = plateau("generate --temp 0 -n -1 --ignore-eos --device twin");
    let mut child = command.arg(PROMPT).start();
    let mut stdout = child.stdout.take().expect("was asked for");
    let mut text = vec![0];
    stdout.read_exact(&mut text).expect("the text begins");
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    stdout.read_to_end(&mut text).expect("stdout ends");
    let ran = Ran::new(child);
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("tokens/s") && !ran.stderr.contains("error"),
        "{}",
        ran.stderr
    );
    assert!(String::from_utf8(text).is_ok());
}
