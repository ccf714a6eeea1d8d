//! `plateau bench`: tokens per second, in llama-bench's words.

mod dispatches;
mod measure;
mod plot;
mod profile;

use crate::args::{AddedChannels, Bench, BenchOutput, all_counts};
use crate::console::{Console, Unit, print};
use crate::exit::{CliError, usage};
use crate::load;
use crate::rows::{Column, Field, Rows, md_header, md_line};
use crate::shape;
use anyhow::Result;
use measure::{Sample, Test, elapsed_ns, percentiles, prompt_ids};
use plateau::checkpoint::{Checkpoint, ModelConfig};
use plateau::exec::{AdapterInfo, ProfileDetail};
use plateau::sampler::SamplerConfig;
use plateau::session::{LoadOptions, Session, SyntheticFormat};
use plateau::tensor::Quant;
use plot::Point;
use profile::ProfiledTest;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Tokens of the prompt and of its greedy continuation that are checked before anything is timed.
const CHECKED_PROMPT: u32 = 8;
const CHECKED_NEW: u32 = 4;

pub async fn run(args: &Bench, console: &Console) -> Result<()> {
    let tests = tests(args)?;
    let models = Model::open_all(args).await?;
    let longest = tests
        .iter()
        .map(Test::positions)
        .max()
        .unwrap_or(0)
        .max(CHECKED_PROMPT + CHECKED_NEW);
    for model in &models {
        let limit = model.config().max_position_embeddings;
        if longest > limit {
            return Err(usage(format!(
                "the tests need {longest} positions, {} has {limit}; -p, -n and -d take less",
                model.filename()
            )));
        }
    }
    let sequences = tests.iter().map(|test| test.sequences).max().unwrap_or(1);
    let trace = args.profile.as_deref().map(NewFile::create).transpose()?;
    let plot = args.plot.as_deref().map(NewFile::create).transpose()?;

    let shown = Shown::new(args);
    let mut rows = Rows::new(args.output, shown.columns());
    let mut profiled = Vec::new();
    let mut done: Vec<Row> = Vec::new();
    for model in &models {
        for (batch, ubatch) in batches(args) {
            let options = LoadOptions {
                max_rows: ubatch.map(|ubatch| batch.min(ubatch)),
                max_sequences: sequences,
                ..load::options(&args.load.format, Some(longest))?
            };
            let (mut session, adapter) = model.load(args, &options, console).await?;
            let max_rows = session.parts().0.capacity.max_rows.min(batch);
            if args.verbose {
                console.note(dispatches::describe(session.parts().0, sequences, max_rows));
            }
            if let Model::Shape { .. } = model {
                let (built, _) = session.parts();
                let bits = built.weights.bits_per_weight();
                console.note(format!(
                    "the decoder's linears take {bits:.3} bits per weight"
                ));
            }
            check(&mut session, console).await?;
            let described = Described {
                batch,
                ubatch: ubatch.unwrap_or(max_rows),
                max_rows,
                ..Described::new(model, &options, &session, adapter.as_ref())
            };
            for &test in &tests {
                let samples =
                    measure::measure(&mut session, test, max_rows, args.repetitions, console)
                        .await?;
                let row = Row {
                    described: described.clone(),
                    test,
                    samples,
                    at: SystemTime::now(),
                };
                rows.row(&row.fields(), &shown.cells(&row))?;
                if trace.is_some() {
                    profiled.extend(profile_once(&mut session, &row, console).await?);
                }
                done.push(row);
            }
        }
    }
    if args.output == BenchOutput::Md {
        print(&latencies(&done))?;
    }
    let tables = profiled.iter().map(ProfiledTest::table).collect::<String>();
    if args.output == BenchOutput::Md {
        print(&tables)?;
    } else if !tables.is_empty() {
        console.note(tables);
    }
    let device = done.first().map(|row| row.described.device_line());
    if let Some(trace) = trace {
        trace.write(
            &profile::trace(&profiled, &json!({"device": device})),
            console,
        )?;
    }
    if let (Some(plot), Some(device)) = (plot, &device) {
        plot.write(&drawing(&done, device), console)?;
    }
    Ok(rows.finish(device.as_deref())?)
}

/// A file that is made before anything is measured, so that a wrong path is said at once.
struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, CliError> {
        match File::create(path) {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
            }),
            Err(source) => Err(Self::error(path, source)),
        }
    }

    fn write(mut self, text: &str, console: &Console) -> Result<(), CliError> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|source| Self::error(&self.path, source))?;
        console.note(format!("wrote {}", self.path.display()));
        Ok(())
    }

    fn error(path: &Path, source: std::io::Error) -> CliError {
        CliError::File {
            verb: "write",
            path: path.display().to_string(),
            source,
        }
    }
}

/// -b and -ub, each with each; `None` is what suits the device.
fn batches(args: &Bench) -> Vec<(u32, Option<u32>)> {
    let mut ubatches: Vec<Option<u32>> = all_counts(&args.ubatch_size)
        .into_iter()
        .map(Some)
        .collect();
    if ubatches.is_empty() {
        ubatches.push(None);
    }
    let pairs = all_counts(&args.batch_size)
        .into_iter()
        .flat_map(|batch| ubatches.iter().map(move |&ubatch| (batch, ubatch)));
    pairs.collect()
}

/// The test of `row` once more, with its dispatches timed; nothing where the device has no timestamps, which is said.
async fn profile_once(
    session: &mut Session,
    row: &Row,
    console: &Console,
) -> Result<Option<ProfiledTest>> {
    let (test, max_rows) = (row.test, row.described.max_rows);
    measure::fill(session, test, max_rows).await?;
    let (_, executor) = session.parts();
    if !executor.start_profile(ProfileDetail::Dispatches) {
        console.note(format!("--profile: {} has no timestamps", executor.name()));
        return Ok(None);
    }
    let start = Instant::now();
    let sample = measure::run_once(session, test, max_rows).await?;
    let wall_ns = elapsed_ns(start);
    let (_, executor) = session.parts();
    let runs = executor.take_profile().await?;
    // What is timed may leave out the first step.
    let dispatches: usize = runs.iter().map(|run| run.dispatches.len()).sum();
    let timed = dispatches as f64 * sample.ns as f64 / wall_ns.max(1) as f64;
    let [usual, ..] = percentiles(row.ns()).unwrap_or_default();
    let sequences = match test.sequences {
        1 => String::new(),
        sequences => format!(" × {sequences}"),
    };
    Ok(Some(ProfiledTest {
        name: format!("{} {}{sequences}", row.described.label, test.name()),
        wall_ns,
        stamp_ns: sample.ns.saturating_sub(usual) as f64 / timed.max(1.0),
        runs,
    }))
}

/// The tests in llama-bench's order: at each depth, and with each number of sequences, prompts, continuations, then both.
fn tests(args: &Bench) -> Result<Vec<Test>> {
    let prompts = all_counts(&args.n_prompt).into_iter().map(|p| (p, 0));
    let gens = all_counts(&args.n_gen).into_iter().map(|n| (0, n));
    let both = args.pg.iter().map(|both| (both.prompt, both.gen_tokens));
    let kinds: Vec<(u32, u32)> = prompts
        .chain(gens)
        .chain(both)
        .filter(|kind| *kind != (0, 0))
        .collect();
    if kinds.is_empty() {
        return Err(usage("nothing to measure: -p, -n and --pg are all 0"));
    }
    let mut tests = Vec::new();
    for depth in all_counts(&args.n_depth) {
        for sequences in all_counts(&args.npl) {
            tests.extend(kinds.iter().map(|&(prompt, gen_tokens)| Test {
                prompt,
                gen_tokens,
                depth,
                sequences,
            }));
        }
    }
    Ok(tests)
}

/// Times until the first token and between tokens, as a table of their own; nothing where there are none.
fn latencies(rows: &[Row]) -> String {
    let columns = [
        Column::text("test", 22),
        Column::number("npl", 4),
        Column::number("first token ms: p50", 19),
        Column::number("p90", 9),
        Column::number("p99", 9),
        Column::number("between tokens ms: p50", 22),
        Column::number("p90", 9),
        Column::number("p99", 9),
    ];
    let several = rows
        .iter()
        .any(|row| row.described.label != rows[0].described.label);
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let name = row.test.name();
            let mut cells = vec![
                if several {
                    format!("{} {name}", row.described.label)
                } else {
                    name
                },
                row.test.sequences.to_string(),
            ];
            for times in [row.first_ns(), row.gaps_ns()] {
                match times {
                    Some(times) => cells.extend(times.map(|ns| format!("{:.3}", ns as f64 / 1e6))),
                    None => cells.extend(std::iter::repeat_n(String::new(), 3)),
                }
            }
            md_line(&columns, &cells)
        })
        .collect();
    format!("\n{}{}", md_header(&columns), lines.concat())
}

fn drawing(rows: &[Row], device: &str) -> String {
    let point = |row: &Row| {
        let (rate, deviation) = mean_and_deviation(&row.rates());
        Point {
            model: row.described.label.clone(),
            parameters: (row.described.parameters as f64 / 1e4).round() / 1e2,
            prompt: row.test.prompt,
            gen_tokens: row.test.gen_tokens,
            depth: row.test.depth,
            sequences: row.test.sequences,
            rate,
            deviation,
        }
    };
    let points: Vec<Point> = rows.iter().map(point).collect();
    let mut models: Vec<&str> = rows
        .iter()
        .map(|row| row.described.label.as_str())
        .collect();
    models.dedup();
    let repetitions = rows.first().map_or(0, |row| row.samples.len());
    plot::svg(
        &points,
        &[
            format!(
                "{}; mean and standard deviation of {repetitions}",
                models.join(", ")
            ),
            device.to_owned(),
        ],
    )
}

/// What is measured: a checkpoint, or random weights of a shape.
enum Model {
    Checkpoint(Box<Checkpoint>),
    Shape {
        name: String,
        config: ModelConfig,
        /// After the format in the model's name.
        suffix: String,
    },
}

impl Model {
    async fn open_all(args: &Bench) -> Result<Vec<Self>> {
        if args.shape.is_empty() {
            let checkpoint = load::checkpoint(args.load.model.model.as_deref()).await?;
            return Ok(vec![Self::Checkpoint(Box::new(checkpoint))]);
        }
        let shape = |name: &String| {
            Ok(Self::Shape {
                name: name.clone(),
                config: shape::find(name)?,
                suffix: synthetic_suffix(args),
            })
        };
        args.shape.iter().map(shape).collect()
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
                let format = synthetic_format(args);
                Session::synthetic(config, opened.executor, options, &format, &mut |now| {
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
            Self::Shape { name, suffix, .. } => {
                format!("{name} {}{suffix}", quant.unwrap_or(Quant::F16))
            }
        }
    }
}

fn synthetic_format(args: &Bench) -> SyntheticFormat {
    SyntheticFormat {
        group_size: args.group_size,
        added: args.added_channels.map(|AddedChannels(shares)| shares),
    }
}

/// `g32+0.05,0.2`: groups and extra channels of random weights.
fn synthetic_suffix(args: &Bench) -> String {
    let group = match args.group_size {
        0 => String::new(),
        size => format!("g{size}"),
    };
    match args.added_channels {
        Some(AddedChannels([share, down])) => format!("{group}+{share},{down}"),
        None => group,
    }
}

/// A continuation, decoded token by token, has to be what the logits of one prefill say. A speed of wrong results is
/// worth nothing.
async fn check(session: &mut Session, console: &Console) -> Result<()> {
    let progress = console.progress("checking", 2, Unit::Steps);
    let vocab = session.config().vocab_size;
    let mut ids: Vec<u32> = prompt_ids(0..CHECKED_PROMPT, vocab).collect();
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
    /// -b and -ub.
    batch: u32,
    ubatch: u32,
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
            kv_type: options.kv_type.name(),
            layers: model.config().num_hidden_layers,
            backend: adapter.map_or("CPU", |adapter| backend_name(adapter.backend)),
            adapter: adapter.map_or_else(|| "CPU twins".to_owned(), |adapter| adapter.name.clone()),
            driver: adapter.map_or_else(String::new, |adapter| adapter.driver.clone()),
            ..Self::default()
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
    samples: Vec<Sample>,
    at: SystemTime,
}

impl Row {
    fn rates(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|sample| f64::from(self.test.tokens()) * 1e9 / sample.ns.max(1) as f64)
            .collect()
    }

    fn ns(&self) -> Vec<u64> {
        self.samples.iter().map(|sample| sample.ns).collect()
    }

    /// Percentiles 50, 90 and 99.
    fn first_ns(&self) -> Option<[u64; 3]> {
        percentiles(self.samples.iter().filter_map(|s| s.first_ns).collect())
    }

    fn gaps_ns(&self) -> Option<[u64; 3]> {
        percentiles(
            self.samples
                .iter()
                .flat_map(|s| s.gaps_ns.clone())
                .collect(),
        )
    }

    /// llama-bench's fields, in its order; then those of this program. Lists are last among llama-bench's.
    fn fields(&self) -> Vec<Field> {
        let of = &self.described;
        let gpu = of.backend != "CPU";
        let times: Vec<f64> = self.ns().into_iter().map(|ns| ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_and_deviation(&times);
        let rates = self.rates();
        let ms = |times: Option<[u64; 3]>, i: usize| -> Value {
            json!(times.map(|times| times[i] as f64 / 1e6))
        };
        let (first, gaps) = (self.first_ns(), self.gaps_ns());
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
            ("n_batch", json!(of.batch)),
            ("n_ubatch", json!(of.ubatch)),
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
            ("n_depth", json!(self.test.depth)),
            ("test_time", json!(utc(self.at))),
            ("avg_ns", json!(avg_ns.round() as u64)),
            ("stddev_ns", json!(stddev_ns.round() as u64)),
            ("avg_ts", json!(avg_ts)),
            ("stddev_ts", json!(stddev_ts)),
            ("samples_ns", json!(self.ns())),
            ("samples_ts", json!(rates)),
            ("adapter", json!(of.adapter)),
            ("driver", json!(of.driver)),
            ("backend_api", json!(of.backend)),
            ("n_parallel", json!(self.test.sequences)),
            ("first_token_p50_ms", ms(first, 0)),
            ("first_token_p90_ms", ms(first, 1)),
            ("first_token_p99_ms", ms(first, 2)),
            ("between_tokens_p50_ms", ms(gaps, 0)),
            ("between_tokens_p90_ms", ms(gaps, 1)),
            ("between_tokens_p99_ms", ms(gaps, 2)),
        ]
    }
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

/// Which columns the table has: as in llama-bench, what is varied has one.
#[derive(Clone, Copy, Debug)]
struct Shown {
    batch: bool,
    ubatch: bool,
    sequences: bool,
}

impl Shown {
    fn new(args: &Bench) -> Self {
        Self {
            batch: all_counts(&args.batch_size).len() > 1,
            ubatch: all_counts(&args.ubatch_size).len() > 1,
            sequences: all_counts(&args.npl) != [1],
        }
    }

    /// In llama-bench's widths.
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column::text("model", 30),
            Column::number("size", 10),
            Column::number("params", 10),
            Column::text("backend", 10),
        ];
        if self.batch {
            columns.push(Column::number("n_batch", 7));
        }
        if self.ubatch {
            columns.push(Column::number("n_ubatch", 8));
        }
        if self.sequences {
            columns.push(Column::number("npl", 5));
        }
        columns.push(Column::number("test", 14));
        columns.push(Column::number("t/s", 20));
        columns
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let of = &row.described;
        let (avg_ts, stddev_ts) = mean_and_deviation(&row.rates());
        let mut cells = vec![
            of.label.clone(),
            size(of.size),
            count(of.parameters),
            of.backend.to_owned(),
        ];
        if self.batch {
            cells.push(of.batch.to_string());
        }
        if self.ubatch {
            cells.push(of.ubatch.to_string());
        }
        if self.sequences {
            cells.push(row.test.sequences.to_string());
        }
        cells.push(row.test.name());
        cells.push(format!("{avg_ts:.2} ± {stddev_ts:.2}"));
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use crate::rows::{csv_fields, json_object};
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
            batch: 2048,
            ubatch: 512,
            max_rows: 512,
            kv_type: "f16",
            backend: "Vulkan",
            adapter: "Example GPU".to_owned(),
            driver: "example 1.2".to_owned(),
            ..Described::default()
        };
        let sample = |ns| Sample {
            ns,
            first_ns: Some(ns),
            gaps_ns: Vec::new(),
        };
        let samples = [1_000_000_000, 2_000_000_000, 4_000_000_000]
            .map(sample)
            .to_vec();
        Row {
            described,
            test: Test {
                prompt: 512,
                gen_tokens: 0,
                depth: 0,
                sequences: 1,
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
        let expected = ["pp8", "tg4", "pp8 @ d64", "tg4 @ d64"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(names("-p 8 -n 4 -d 0,64").ok(), Some(expected));
        let together = tests(&bench("-p 0 -n 4 --npl 1,3")).expect("two tests");
        assert_eq!(
            together.iter().map(Test::tokens).collect::<Vec<_>>(),
            [4, 12]
        );
    }

    #[test]
    fn every_batch_is_measured_with_every_ubatch() {
        let pairs = batches(&bench("-b 64,128 --ubatch-size 32,512"));
        let ubatches = [Some(32), Some(512)];
        assert_eq!(
            pairs,
            [64, 128]
                .map(|batch| ubatches.map(|ubatch| (batch, ubatch)))
                .concat()
        );
        assert_eq!(batches(&bench("-b 64")), [(64, None)]);
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[]), (0.0, 0.0));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
    }

    #[test]
    fn the_table_is_that_of_llama_bench() {
        let shown = Shown::new(&bench(""));
        let columns = shown.columns();
        let text = format!(
            "{}{}",
            md_header(&columns),
            md_line(&columns, &shown.cells(&row()))
        );
        let expected = "\
| model                          |       size |     params | backend    |           test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | -------------: | -------------------: |
| tiny \"w4a8\"                    |   3.00 GiB |     1.10 B | Vulkan     |          pp512 |      298.67 ± 195.52 |
";
        assert_eq!(text, expected);
        let all = Shown::new(&bench("-b 1,2 --ubatch-size 1,2 --npl 2")).columns();
        for name in ["n_batch", "n_ubatch", "npl"] {
            assert!(md_header(&all).contains(name), "{name}");
        }
    }

    #[test]
    fn json_has_the_field_names_of_llama_bench() {
        let value: Value = serde_json::from_str(&json_object(&row().fields())).expect("is JSON");
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
        assert_eq!(value["first_token_p50_ms"], json!(2000.0));
        assert_eq!(value["between_tokens_p50_ms"], Value::Null);
    }

    #[test]
    fn csv_is_quoted_and_has_no_lists() {
        let fields = csv_fields(&row().fields());
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
}
