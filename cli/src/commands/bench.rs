//! `plateau bench`: tokens per second, in llama-bench's words.

mod profile;

use crate::args::{Bench, BenchOutput};
use crate::console::{Console, Unit, print, print_line};
use crate::exit::{CliError, usage};
use crate::load;
use crate::shape;
use anyhow::Result;
use plateau::checkpoint::{Checkpoint, ModelConfig};
use plateau::exec::{AdapterInfo, ProfileDetail};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Session};
use plateau::tensor::Quant;
use profile::{ProfiledTest, TraceFile};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

/// Tokens of the prompt and of its greedy continuation that are checked before anything is timed.
const CHECKED_PROMPT: u32 = 8;
const CHECKED_NEW: u32 = 4;

pub async fn run(args: &Bench, console: &Console) -> Result<()> {
    let tests = tests(args)?;
    let model = Model::open(args).await?;
    let longest = tests
        .iter()
        .map(Test::positions)
        .max()
        .unwrap_or(0)
        .max(CHECKED_PROMPT + CHECKED_NEW);
    let limit = model.config().max_position_embeddings;
    if longest > limit {
        return Err(usage(format!(
            "the tests need {longest} positions, the model has {limit}; -p and -n take less"
        )));
    }

    let trace = args.profile.as_deref().map(TraceFile::create).transpose()?;
    let mut profiled = Vec::new();
    let mut printer = Printer::new(args.output, args.ubatch_size.len() > 1);
    let mut device = None;
    for &max_rows in &args.ubatch_size {
        let options = LoadOptions {
            max_rows,
            ..load::options(&args.load.format, Some(longest))?
        };
        let (mut session, adapter) = model.load(args, &options, console).await?;
        check(&mut session, console).await?;
        let described = Described::new(&model, &options, &session, adapter.as_ref());
        for &test in &tests {
            let samples = measure(&mut session, test, args.repetitions, console).await?;
            printer.row(Row {
                described: described.clone(),
                test,
                samples,
                at: SystemTime::now(),
            })?;
            if trace.is_some() {
                profiled.extend(profile_once(&mut session, test, &described, console).await?);
            }
        }
        device = Some(described.device_line());
    }
    let tables = profiled.iter().map(ProfiledTest::table).collect::<String>();
    if args.output == BenchOutput::Md {
        print(&tables)?;
    } else {
        console.note(tables);
    }
    if let Some(trace) = trace {
        let path = trace.write(&profiled, &json!(device))?;
        console.note(format!("trace: {}", path.display()));
    }
    printer.finish(device)
}

/// The test once more, with its dispatches timed; nothing where the device has no timestamps, which is said.
async fn profile_once(
    session: &mut Session,
    test: Test,
    described: &Described,
    console: &Console,
) -> Result<Option<ProfiledTest>> {
    let (_, executor) = session.parts();
    if !executor.start_profile(ProfileDetail::Dispatches) {
        console.note(format!("--profile: {} has no timestamps", executor.name()));
        return Ok(None);
    }
    let start = Instant::now();
    run_once(session, test).await?;
    let wall_ns = elapsed_ns(start);
    let (_, executor) = session.parts();
    Ok(Some(ProfiledTest {
        name: format!("{} {}", described.label, test.name()),
        wall_ns,
        runs: executor.take_profile().await?,
    }))
}

fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A prompt, a continuation, or one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    prompt: u32,
    gen_tokens: u32,
}

impl Test {
    /// `pp512`, `tg128`, `pp512+tg128`
    fn name(&self) -> String {
        match (self.prompt, self.gen_tokens) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, gen_tokens) => format!("tg{gen_tokens}"),
            (prompt, gen_tokens) => format!("pp{prompt}+tg{gen_tokens}"),
        }
    }

    fn tokens(&self) -> u32 {
        self.prompt + self.gen_tokens
    }

    /// Of the context. A continuation starts from one token at least.
    fn positions(&self) -> u32 {
        self.prompt
            .max(u32::from(self.gen_tokens > 0))
            .saturating_add(self.gen_tokens)
    }
}

fn tests(args: &Bench) -> Result<Vec<Test>> {
    let prompts = args.n_prompt.iter().map(|&prompt| Test {
        prompt,
        gen_tokens: 0,
    });
    let gens = args.n_gen.iter().map(|&gen_tokens| Test {
        prompt: 0,
        gen_tokens,
    });
    let both = args.pg.iter().map(|both| Test {
        prompt: both.prompt,
        gen_tokens: both.gen_tokens,
    });
    let tests: Vec<Test> = prompts
        .chain(gens)
        .chain(both)
        .filter(|test| test.positions() > 0)
        .collect();
    if tests.is_empty() {
        Err(usage("nothing to measure: -p, -n and --pg are all 0"))
    } else {
        Ok(tests)
    }
}

/// What is measured: a checkpoint, or random weights of a shape.
enum Model {
    Checkpoint(Box<Checkpoint>),
    Shape { name: String, config: ModelConfig },
}

impl Model {
    async fn open(args: &Bench) -> Result<Self> {
        Ok(match &args.shape {
            Some(name) => Self::Shape {
                name: name.clone(),
                config: shape::find(name)?,
            },
            None => Self::Checkpoint(Box::new(
                load::checkpoint(args.load.model.model.as_deref()).await?,
            )),
        })
    }

    fn config(&self) -> &ModelConfig {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.config,
            Self::Shape { config, .. } => config,
        }
    }

    async fn load(
        &self,
        args: &Bench,
        options: &LoadOptions,
        console: &Console,
    ) -> Result<(Session, Option<AdapterInfo>)> {
        let opened = load::open(&args.load.device, console).await?;
        let adapter = opened.executor.adapter().cloned();
        let session = match self {
            Self::Checkpoint(checkpoint) => {
                load::upload(checkpoint, opened, options, console).await?
            }
            Self::Shape { config, .. } => {
                let progress = console.progress("random weights", 0, Unit::Bytes);
                Session::synthetic(config, opened.executor, options, &mut |now| {
                    progress.load(now)
                })
                .await?
            }
        };
        Ok((session, adapter))
    }

    fn filename(&self) -> String {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.folder.name(),
            Self::Shape { name, .. } => format!("random weights: {name}"),
        }
    }

    /// `demo-llama-16m w4a8`
    fn label(&self, quant: Option<Quant>) -> String {
        match self {
            Self::Checkpoint(checkpoint) => {
                format!(
                    "{} {}",
                    load::short_name(&checkpoint.folder),
                    load::format_label(checkpoint, quant)
                )
            }
            Self::Shape { name, .. } => format!("{name} {}", quant.unwrap_or(Quant::F16)),
        }
    }
}

/// Ids that differ and are the same each time.
fn prompt_ids(count: u32, vocab: u32) -> Vec<u32> {
    (0..count)
        .map(|index| ((u64::from(index) * 7919 + 1) % u64::from(vocab)) as u32)
        .collect()
}

/// A continuation, decoded token by token, has to be what the logits of one prefill say. A speed of wrong results is
/// worth nothing.
async fn check(session: &mut Session, console: &Console) -> Result<()> {
    let progress = console.progress("checking", 2, Unit::Steps);
    let vocab = session.config().vocab_size;
    let mut ids = prompt_ids(CHECKED_PROMPT, vocab);
    let mut new = Vec::new();
    let mut take = |id| {
        new.push(id);
        ControlFlow::Continue(())
    };
    session
        .generate(
            &ids,
            &SamplerConfig::GREEDY,
            Some(CHECKED_NEW as usize),
            &mut take,
        )
        .await?;
    progress.set(1);
    let first_row = ids.len() - 1;
    // The last new token is not fed back.
    ids.extend(&new[..new.len().saturating_sub(1)]);
    let mut predicted = Vec::new();
    let mut finite = true;
    let mut judge = |row: usize, logits: &[f32]| {
        for (row, logits) in (row..).zip(logits.chunks_exact(vocab as usize)) {
            finite &= logits.iter().all(|logit| logit.is_finite());
            if row >= first_row {
                predicted.push(argmax(logits));
            }
        }
    };
    session.logits(&ids, &mut judge).await?;
    if !finite {
        return Err(
            CliError::NumericCheck("the logits of the check are not finite".to_owned()).into(),
        );
    }
    if new.len() != CHECKED_NEW as usize || predicted != new {
        let line = format!("decoding gave the tokens {new:?}, one prefill gives {predicted:?}");
        return Err(CliError::NumericCheck(line).into());
    }
    Ok(())
}

/// The lowest id among the most likely ones.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best as u32
}

/// One run to warm up, then the time of each of `repetitions` runs, in ns.
async fn measure(
    session: &mut Session,
    test: Test,
    repetitions: u32,
    console: &Console,
) -> Result<Vec<u64>> {
    let progress = console.progress(&test.name(), u64::from(repetitions) + 1, Unit::Steps);
    let mut samples = Vec::new();
    for repetition in 0..=repetitions {
        let ns = run_once(session, test).await?;
        if repetition > 0 {
            samples.push(ns);
        }
        progress.set(u64::from(repetition) + 1);
    }
    Ok(samples)
}

async fn run_once(session: &mut Session, test: Test) -> Result<u64> {
    let vocab = session.config().vocab_size;
    if test.gen_tokens == 0 {
        let ids = prompt_ids(test.prompt, vocab);
        let start = Instant::now();
        session.prefill(&ids).await?;
        return Ok(elapsed_ns(start));
    }
    // The first new token comes out of the prompt's last row: one more than the decode steps that are timed.
    let ids = prompt_ids(test.prompt.max(1), vocab);
    let new_tokens = test.gen_tokens as usize + 1;
    let mut go_on = |_| ControlFlow::Continue(());
    let report = session
        .generate(&ids, &SamplerConfig::GREEDY, Some(new_tokens), &mut go_on)
        .await?;
    if report.new_tokens != new_tokens {
        let line = format!(
            "{}: {} tokens came, not {new_tokens}",
            test.name(),
            report.new_tokens
        );
        return Err(CliError::NumericCheck(line).into());
    }
    Ok(if test.prompt == 0 {
        report.decode_ns
    } else {
        report.prefill_ns + report.decode_ns
    })
}

/// Mean, and the spread of a sample (n - 1); 0 for less than two.
fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count.max(1.0);
    if samples.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

/// What all tests of one loaded model have in common.
#[derive(Clone, Debug, Default)]
struct Described {
    label: String,
    filename: String,
    size: u64,
    parameters: u64,
    max_rows: u32,
    kv_type: &'static str,
    layers: u32,
    /// `Vulkan`, `Metal`, `DX12`, or `CPU` for the twins.
    backend: &'static str,
    adapter: String,
    driver: String,
}

impl Described {
    fn new(
        model: &Model,
        options: &LoadOptions,
        session: &Session,
        adapter: Option<&AdapterInfo>,
    ) -> Self {
        Self {
            label: model.label(options.quant),
            filename: model.filename(),
            size: session.memory().weights,
            parameters: session.parameters(),
            max_rows: options.max_rows,
            kv_type: options.kv_type.name(),
            layers: model.config().num_hidden_layers,
            backend: adapter.map_or("CPU", |adapter| backend_name(adapter.backend)),
            adapter: adapter.map_or_else(|| "CPU twins".to_owned(), |adapter| adapter.name.clone()),
            driver: adapter.map_or_else(String::new, |adapter| adapter.driver.clone()),
        }
    }

    fn device_line(&self) -> String {
        let driver = if self.driver.is_empty() {
            String::new()
        } else {
            format!(", driver {}", self.driver)
        };
        format!(
            "device: {} ({}{driver}); plateau {}",
            self.adapter,
            self.backend,
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// As llama-bench writes it.
fn backend_name(backend: &'static str) -> &'static str {
    match backend {
        "vulkan" => "Vulkan",
        "metal" => "Metal",
        "dx12" => "DX12",
        other => other,
    }
}

/// One measured test.
#[derive(Clone, Debug)]
struct Row {
    described: Described,
    test: Test,
    /// ns
    samples: Vec<u64>,
    at: SystemTime,
}

impl Row {
    fn rates(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|&ns| f64::from(self.test.tokens()) * 1e9 / ns.max(1) as f64)
            .collect()
    }

    /// llama-bench's fields, in its order; then those of this program. Lists are last among llama-bench's.
    fn fields(&self) -> Vec<(&'static str, Value)> {
        let of = &self.described;
        let gpu = of.backend != "CPU";
        let times: Vec<f64> = self.samples.iter().map(|&ns| ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_and_deviation(&times);
        let rates = self.rates();
        let (avg_ts, stddev_ts) = mean_and_deviation(&rates);
        vec![
            (
                "build_commit",
                json!(concat!("plateau-", env!("CARGO_PKG_VERSION"))),
            ),
            ("build_number", json!(0)),
            ("cpu_info", json!(cpu_name())),
            (
                "gpu_info",
                json!(if gpu { of.adapter.as_str() } else { "" }),
            ),
            ("backends", json!(of.backend)),
            ("model_filename", json!(of.filename)),
            ("model_type", json!(of.label)),
            ("model_size", json!(of.size)),
            ("model_n_params", json!(of.parameters)),
            ("n_batch", json!(of.max_rows)),
            ("n_ubatch", json!(of.max_rows)),
            (
                "n_threads",
                json!(std::thread::available_parallelism().map_or(1, usize::from)),
            ),
            ("type_k", json!(of.kv_type)),
            ("type_v", json!(of.kv_type)),
            ("n_gpu_layers", json!(if gpu { of.layers } else { 0 })),
            ("split_mode", json!("none")),
            ("main_gpu", json!(0)),
            ("flash_attn", json!(true)),
            ("devices", json!(of.adapter)),
            ("n_prompt", json!(self.test.prompt)),
            ("n_gen", json!(self.test.gen_tokens)),
            ("n_depth", json!(0)),
            ("test_time", json!(utc(self.at))),
            ("avg_ns", json!(avg_ns.round() as u64)),
            ("stddev_ns", json!(stddev_ns.round() as u64)),
            ("avg_ts", json!(avg_ts)),
            ("stddev_ts", json!(stddev_ts)),
            ("samples_ns", json!(self.samples)),
            ("samples_ts", json!(rates)),
            ("adapter", json!(of.adapter)),
            ("driver", json!(of.driver)),
            ("backend_api", json!(of.backend)),
        ]
    }

    /// The fields in their order on one line: a `serde_json` map would sort them.
    fn json(&self) -> String {
        let fields = self.fields();
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}: {value}", json!(name)))
            .collect();
        format!("{{{}}}", fields.join(", "))
    }

    /// Every field but the lists, as llama-bench does.
    fn csv_fields(&self) -> Vec<(&'static str, String)> {
        let fields = self.fields().into_iter();
        fields
            .filter_map(|(name, value)| Some((name, csv_value(&value)?)))
            .collect()
    }

    fn md_cells(&self, ubatch: bool) -> Vec<String> {
        let of = &self.described;
        let (avg_ts, stddev_ts) = mean_and_deviation(&self.rates());
        let mut cells = vec![
            of.label.clone(),
            size(of.size),
            count(of.parameters),
            of.backend.to_owned(),
        ];
        if ubatch {
            cells.push(of.max_rows.to_string());
        }
        cells.push(self.test.name());
        cells.push(format!("{avg_ts:.2} ± {stddev_ts:.2}"));
        cells
    }
}

fn csv_value(value: &Value) -> Option<String> {
    let text = match value {
        Value::Array(_) | Value::Object(_) => return None,
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    Some(format!("\"{}\"", text.replace('"', "\"\"")))
}

/// `1.10 GiB`, or MiB below 1 GiB, as in llama-bench.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.2} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

/// `1.10 B` or `15.74 M`
fn count(parameters: u64) -> String {
    let millions = parameters as f64 / 1e6;
    if millions < 1000.0 {
        format!("{millions:.2} M")
    } else {
        format!("{:.2} B", millions / 1000.0)
    }
}

/// The processor, where the system says it in a file.
fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

/// `2026-01-31T12:34:56Z`
fn utc(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (mut days, in_day) = (seconds / DAY, seconds % DAY);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hours, minutes, seconds) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}Z",
        days + 1
    )
}

/// Rows as they come, in the form that was asked for.
struct Printer {
    form: BenchOutput,
    ubatch: bool,
    rows: usize,
}

/// A column of the table: its name, its width, and whether it is a number. llama-bench's widths.
const COLUMNS: [(&str, usize, bool); 7] = [
    ("model", 30, false),
    ("size", 10, true),
    ("params", 10, true),
    ("backend", 10, false),
    ("n_ubatch", 8, true),
    ("test", 14, true),
    ("t/s", 20, true),
];

impl Printer {
    fn new(form: BenchOutput, ubatch: bool) -> Self {
        Self {
            form,
            ubatch,
            rows: 0,
        }
    }

    fn row(&mut self, row: Row) -> Result<()> {
        let mut text = String::new();
        match self.form {
            BenchOutput::Md => {
                if self.rows == 0 {
                    text.push_str(&self.md_header());
                }
                text.push_str(&self.md_line(&row.md_cells(self.ubatch)));
            }
            BenchOutput::Csv => {
                let fields = row.csv_fields();
                if self.rows == 0 {
                    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
                    text.push_str(&format!("{}\n", names.join(",")));
                }
                let values: Vec<&str> = fields.iter().map(|(_, value)| value.as_str()).collect();
                text.push_str(&format!("{}\n", values.join(",")));
            }
            BenchOutput::Json => {
                text.push_str(if self.rows == 0 { "[\n  " } else { ",\n  " });
                text.push_str(&row.json());
            }
            BenchOutput::Jsonl => text.push_str(&format!("{}\n", row.json())),
        }
        self.rows += 1;
        Ok(print(&text)?)
    }

    fn finish(self, device: Option<String>) -> Result<()> {
        match (self.form, device) {
            (BenchOutput::Md, Some(device)) => print_line(&format!("\n{device}"))?,
            (BenchOutput::Json, _) => print("\n]\n")?,
            (BenchOutput::Md, None) | (BenchOutput::Csv | BenchOutput::Jsonl, _) => {}
        }
        Ok(())
    }

    fn columns(&self) -> impl Iterator<Item = (&'static str, usize, bool)> {
        let ubatch = self.ubatch;
        COLUMNS
            .into_iter()
            .filter(move |(name, ..)| ubatch || *name != "n_ubatch")
    }

    fn md_header(&self) -> String {
        let names: Vec<String> = self.columns().map(|(name, ..)| name.to_owned()).collect();
        let rules = self.columns().map(|(_, width, number)| {
            if number {
                format!("{}:", "-".repeat(width - 1))
            } else {
                "-".repeat(width)
            }
        });
        format!(
            "{}| {} |\n",
            self.md_line(&names),
            rules.collect::<Vec<_>>().join(" | ")
        )
    }

    fn md_line(&self, cells: &[String]) -> String {
        let cells = self.columns().zip(cells).map(|((_, width, number), cell)| {
            if number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn bench(line: &str) -> Bench {
        let words = ["plateau", "bench"]
            .into_iter()
            .chain(line.split_whitespace());
        match Args::try_parse_from(words).map(|args| args.command) {
            Ok(Command::Bench(bench)) => bench,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn row() -> Row {
        let described = Described {
            label: "tiny \"w4a8\"".to_owned(),
            size: 3 << 30,
            parameters: 1_100_048_384,
            max_rows: 512,
            kv_type: "f16",
            backend: "Vulkan",
            adapter: "Example GPU".to_owned(),
            driver: "example 1.2".to_owned(),
            ..Described::default()
        };
        let samples = vec![1_000_000_000, 2_000_000_000, 4_000_000_000];
        Row {
            described,
            test: Test {
                prompt: 512,
                gen_tokens: 0,
            },
            samples,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn tests_are_named_as_in_llama_bench() {
        let names = |line| {
            tests(&bench(line)).map(|tests| tests.iter().map(Test::name).collect::<Vec<_>>())
        };
        assert_eq!(
            names("").ok(),
            Some(vec!["pp512".to_owned(), "tg128".to_owned()])
        );
        let expected = ["pp64", "pp128", "pp8+tg4"].map(str::to_owned).to_vec();
        assert_eq!(names("-p 64,128 -n 0 --pg 8,4").ok(), Some(expected));
        assert!(names("-p 0 -n 0").is_err());
    }

    #[test]
    fn a_test_knows_the_positions_that_it_needs() {
        let positions = |prompt, gen_tokens| Test { prompt, gen_tokens }.positions();
        assert_eq!(positions(512, 0), 512);
        assert_eq!(positions(0, 128), 129);
        assert_eq!(positions(512, 128), 640);
        assert_eq!(positions(u32::MAX, 1), u32::MAX);
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
    }

    #[test]
    fn the_table_is_that_of_llama_bench() {
        let printer = Printer::new(BenchOutput::Md, false);
        let text = format!(
            "{}{}",
            printer.md_header(),
            printer.md_line(&row().md_cells(false))
        );
        let expected = "\
| model                          |       size |     params | backend    |           test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | -------------: | -------------------: |
| tiny \"w4a8\"                    |   3.00 GiB |     1.10 B | Vulkan     |          pp512 |      298.67 ± 195.52 |
";
        assert_eq!(text, expected);
        assert!(
            Printer::new(BenchOutput::Md, true)
                .md_header()
                .contains("n_ubatch")
        );
    }

    #[test]
    fn json_has_the_field_names_of_llama_bench() {
        let value: Value = serde_json::from_str(&row().json()).expect("is JSON");
        for field in [
            "build_commit",
            "build_number",
            "cpu_info",
            "gpu_info",
            "backends",
            "model_filename",
            "model_type",
            "model_size",
            "model_n_params",
            "n_batch",
            "n_ubatch",
            "n_threads",
            "type_k",
            "type_v",
            "n_gpu_layers",
            "split_mode",
            "main_gpu",
            "flash_attn",
            "devices",
            "n_prompt",
            "n_gen",
            "n_depth",
            "test_time",
            "avg_ns",
            "stddev_ns",
            "avg_ts",
            "stddev_ts",
            "samples_ns",
            "samples_ts",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!(value["samples_ts"], json!([512.0, 256.0, 128.0]));
        assert_eq!(value["avg_ns"], json!(2_333_333_333u64));
    }

    #[test]
    fn csv_is_quoted_and_has_no_lists() {
        let fields = row().csv_fields();
        assert!(
            fields
                .iter()
                .all(|(name, value)| !name.starts_with("samples") && value.starts_with('"'))
        );
        assert!(fields.contains(&("model_type", "\"tiny \"\"w4a8\"\"\"".to_owned())));
    }

    #[test]
    fn times_are_utc() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn the_lowest_of_equal_logits_wins() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, 1.0]), 1);
        assert_eq!(argmax(&[-1.0]), 0);
    }

    #[test]
    fn prompts_stay_in_the_vocabulary() {
        assert!(prompt_ids(1000, 7).iter().all(|&id| id < 7));
        assert_eq!(prompt_ids(3, 32000), [1, 7920, 15839]);
    }
}
