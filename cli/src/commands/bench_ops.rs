//! `plateau bench-ops`: single kernels, tested against their twins and timed against what the adapter can do.

mod against_cuda;

use crate::args::{Against, BenchOps, OpsMode};
use crate::console::Console;
use crate::exit::{CliError, usage};
use crate::load;
use crate::rows::{Column, Field, Rows};
use against_cuda::Peer;
use anyhow::Result;
use plateau::exec::{AdapterInfo, DeviceChoice, DeviceError, Executor};
use plateau::ops::kernel_choices;
use plateau::plan::{Dispatch, Grid, Plan};
use plateau_shaders::{Constant, KERNELS, Kernel};
use plateau_tests::cases::Large;
use plateau_tests::cuda::ruler::Ruler;
use plateau_tests::peaks::Peak;
use plateau_tests::timing::{Order, Timer, Times};
use plateau_tests::{Case, cases, rng, run};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub async fn run(args: &BenchOps, console: &Console) -> Result<()> {
    let filter = Filter::new(args.filter.as_deref())?;
    // What it takes is looked for before a device is opened.
    let peer = match args.against {
        Against::Twin => None,
        Against::Cuda => Some(Peer::open()?),
    };
    let mut device = load::open(&args.device, console).await?.executor;
    let session = Session {
        args,
        filter,
        seed: args.seed.unwrap_or_default(),
        about: About::new(&device),
    };
    if args.mode == OpsMode::Support {
        peer.iter().try_for_each(|peer| peer.say(console))?;
        return session.support(&mut device).await;
    }
    if device.adapter().is_none() {
        if args.device.device == DeviceChoice::Twin {
            return Err(usage(
                "--device twin: test and perf compare an adapter with the CPU twins; support takes them",
            ));
        }
        return Err(DeviceError::NoAdapter.into());
    }
    match (args.mode, &peer) {
        (OpsMode::Perf, peer) => session.perf(&mut device, peer.as_ref(), console).await,
        (OpsMode::Test, Some(peer)) => session.test_against(peer, &mut device, console).await,
        (OpsMode::Test | OpsMode::Support, _) => session.test(&mut device).await,
    }
}

/// Which cases were asked for.
struct Filter(Option<(String, Regex)>);

impl Filter {
    fn new(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else {
            return Ok(Self(None));
        };
        let regex = Regex::new(text).or_else(|error| {
            // A name may have what is special in an expression, and need not be a valid one.
            if names(&cases::all()).any(|name| name.contains(text)) {
                Regex::new(&regex::escape(text)).map_err(|_| error)
            } else {
                Err(error)
            }
        });
        match regex {
            Ok(regex) => Ok(Self(Some((text.to_owned(), regex)))),
            Err(_) => Err(usage(format!(
                "--filter '{text}': neither a part of a case's name nor a regular expression"
            ))),
        }
    }

    /// The case of that whole name, or all that match.
    fn select(&self, cases: Vec<Case>) -> Vec<Case> {
        let Some((text, regex)) = &self.0 else {
            return cases;
        };
        let one = names(&cases).position(|name| name == *text);
        let mut cases = cases;
        match one {
            Some(one) => vec![cases.swap_remove(one)],
            None => {
                cases.retain(|case| {
                    let name = name(case);
                    name.contains(text) || regex.is_match(&name)
                });
                cases
            }
        }
    }

    /// Whether a name is selected.
    fn is_found(&self, name: &str) -> bool {
        match &self.0 {
            None => true,
            Some((text, regex)) => name.contains(text) || regex.is_match(name),
        }
    }

    /// The shapes of which a case may be selected.
    fn large(&self) -> Vec<Large> {
        let mut all = Large::ALL.to_vec();
        all.retain(|large| {
            let mut names = large.names().into_iter();
            names.any(|(kernel, name)| self.is_found(&format!("{kernel} {name}")))
        });
        all
    }

    fn is_name_of(&self, cases: &[Case]) -> bool {
        let is_one = |case: &Case| self.0.as_ref().is_some_and(|(text, _)| name(case) == *text);
        matches!(cases, [case] if is_one(case))
    }
}

fn name(case: &Case) -> String {
    format!("{} {}", case.kernel.name, case.name)
}

/// The name for a table: without what says that nothing is special.
fn short_name(case: &Case) -> String {
    const NOTHING: [&str; 3] = [" Uniform", " group=0", " split=(0, 0)"];
    let mut name = case.name.clone();
    for nothing in NOTHING {
        name = name.replace(nothing, "");
    }
    let words = name.split(' ').filter(|word| !word.ends_with("=false"));
    words.collect::<Vec<_>>().join(" ")
}

fn names(cases: &[Case]) -> impl Iterator<Item = String> + '_ {
    cases.iter().map(name)
}

/// The device, for every row.
struct About {
    adapter: String,
    driver: String,
    backend: &'static str,
    /// As --device takes it.
    device: String,
}

impl About {
    fn new(device: &Executor) -> Self {
        match device.adapter() {
            Some(adapter) => Self::of(adapter),
            None => Self {
                adapter: device.name().to_owned(),
                driver: String::new(),
                backend: "cpu",
                device: "twin".to_owned(),
            },
        }
    }

    fn of(adapter: &AdapterInfo) -> Self {
        Self {
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            backend: adapter.backend,
            device: adapter.index.to_string(),
        }
    }

    fn fields(&self) -> [Field; 3] {
        [
            ("adapter", json!(self.adapter)),
            ("driver", json!(self.driver)),
            ("backend", json!(self.backend)),
        ]
    }

    fn line(&self) -> String {
        let driver = match self.driver.as_str() {
            "" => String::new(),
            driver => format!(", driver {driver}"),
        };
        format!(
            "device: {} ({}{driver}); plateau {}",
            self.adapter,
            self.backend,
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// What became of a case.
enum Outcome {
    Ok,
    Fail(String),
    NotSupported(String),
    /// Only of perf: it would take too long.
    LeftOut(String),
}

impl Outcome {
    fn status(&self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Fail(_) => "FAIL",
            Self::NotSupported(_) => "not supported",
            Self::LeftOut(_) => "left out",
        }
    }

    fn why(&self) -> &str {
        match self {
            Self::Ok => "",
            Self::Fail(why) | Self::NotSupported(why) | Self::LeftOut(why) => why,
        }
    }
}

/// Counts of what became of the cases.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        *self.0.entry(outcome.status()).or_default() += 1;
    }

    fn line(&self) -> String {
        let count = |status: &str| self.0.get(status).copied().unwrap_or(0);
        let all: usize = self.0.values().sum();
        let others = self.0.iter().filter(|(status, _)| **status != "OK");
        let others: String = others
            .map(|(status, count)| format!(", {count} {status}"))
            .collect();
        format!("{} of {all} OK{others}", count("OK"))
    }

    fn result(&self) -> Result<()> {
        match self.0.get("FAIL") {
            None => Ok(()),
            Some(count) => {
                let line = format!("{count} of the cases differ from their twins");
                Err(CliError::NumericCheck(line).into())
            }
        }
    }
}

/// One call of the command.
struct Session<'a> {
    args: &'a BenchOps,
    filter: Filter,
    seed: u64,
    about: About,
}

impl Session<'_> {
    fn seeded<T>(&self, make: impl FnOnce() -> T) -> T {
        rng::salted(self.seed, make)
    }

    fn no_case(&self) -> anyhow::Error {
        let text = self.args.filter.as_deref().unwrap_or_default();
        usage(format!("--filter '{text}': no case has such a name"))
    }

    async fn check(&self, device: &mut Executor, case: &Case) -> Outcome {
        if let Some(why) = run::not_supported(device, case) {
            return Outcome::NotSupported(why);
        }
        match run::check(device, case).await {
            Ok(()) => Outcome::Ok,
            Err(error) => Outcome::Fail(format!("{error}; again: {}", self.replay(&name(case)))),
        }
    }

    /// The command that runs the case of this whole name alone.
    fn replay(&self, name: &str) -> String {
        let against = match self.args.against {
            Against::Twin => "",
            Against::Cuda => "--against cuda ",
        };
        format!(
            "plateau bench-ops test {against}--device {} --seed {} --filter '{}'",
            self.about.device, self.seed, name
        )
    }

    async fn test(&self, device: &mut Executor) -> Result<()> {
        let mut cases = self.filter.select(self.seeded(cases::all));
        if cases.is_empty() {
            // Those come last, since they take seconds to make.
            for large in self.filter.large() {
                cases.extend(self.filter.select(self.seeded(|| large.cases())));
            }
        }
        if cases.is_empty() {
            return Err(self.no_case());
        }
        let columns = vec![
            Column::text("kernel", 26),
            Column::text("case", 60),
            Column::text("result", 13),
            Column::text("why", 3),
        ];
        let mut rows = Rows::new(self.args.output, columns);
        let mut tally = Tally::default();
        for case in &cases {
            let outcome = self.check(device, case).await;
            tally.add(&outcome);
            rows.row(
                &self.fields("test", [case.kernel.name, &case.name], &outcome, &[]),
                &[
                    case.kernel.name.to_owned(),
                    short_name(case),
                    outcome.status().to_owned(),
                    outcome.why().to_owned(),
                ],
            )?;
        }
        rows.finish(Some(&format!("{}\n{}", tally.line(), self.about.line())))?;
        tally.result()
    }

    fn fields(
        &self,
        mode: &'static str,
        [kernel, case]: [&str; 2],
        outcome: &Outcome,
        measured: &[Field],
    ) -> Vec<Field> {
        let mut fields = vec![
            ("mode", json!(mode)),
            ("kernel", json!(kernel)),
            ("case", json!(case)),
            ("status", json!(outcome.status())),
            ("why", json!(outcome.why())),
            ("seed", json!(self.seed)),
        ];
        fields.extend_from_slice(measured);
        fields.extend(self.about.fields());
        fields
    }

    async fn perf(
        &self,
        device: &mut Executor,
        peer: Option<&Peer>,
        console: &Console,
    ) -> Result<()> {
        let is_software = device
            .adapter()
            .is_some_and(|adapter| adapter.kind == "software");
        let others = self.seeded(|| match (&self.filter.0, is_software) {
            (Some(_), _) => self.filter.select(cases::all()),
            (None, true) => cases::largest(&BTreeSet::new()),
            (None, false) => cases::largest(&cases::kernels_of_large()),
        });
        let large = if self.filter.is_name_of(&others) || is_software && self.filter.0.is_none() {
            Vec::new()
        } else {
            self.filter.large()
        };
        if large.is_empty() && others.is_empty() {
            return Err(self.no_case());
        }
        if is_software && self.filter.0.is_none() {
            console.note("a software driver: no large linears without a --filter, such as in=4096");
        }
        let mut perf = Perf {
            session: self,
            console,
            timer: Timer::new(Duration::from_secs_f32(self.args.budget)),
            peaks: BTreeMap::new(),
            rows: Rows::new(self.args.output, perf_columns(peer.is_some())),
            tally: Tally::default(),
            ruler: match peer {
                Some(peer) => Some(peer.ruler()?),
                None => None,
            },
        };
        for peak in Peak::ALL {
            perf.peak(device, peak).await?;
        }
        for large in large {
            perf.large(device, large).await?;
        }
        for case in others {
            perf.case(device, &case).await?;
        }
        let Perf { rows, tally, .. } = perf;
        rows.finish(Some(&format!("{}\n{}", tally.line(), self.about.line())))?;
        tally.result()
    }

    async fn support(&self, device: &mut Executor) -> Result<()> {
        let columns = vec![
            Column::text("kernel", 30),
            Column::text("variant", 20),
            Column::text("result", 13),
            Column::text("chosen for", 14),
            Column::text("why", 3),
        ];
        let mut rows = Rows::new(self.args.output, columns);
        let mut tally = Tally::default();
        let cases = self.filter.select(cases::all());
        if cases.is_empty() {
            return Err(self.no_case());
        }
        for kernel in KERNELS {
            for case in variants(kernel, &cases) {
                let outcome = compiles(device, case).await;
                let variant = variant(&case.constants);
                let chosen = match outcome {
                    Outcome::Ok => chosen_for(device, kernel),
                    _ => String::new(),
                };
                tally.add(&outcome);
                let mut fields = vec![
                    ("mode", json!("support")),
                    ("kernel", json!(kernel.name)),
                    ("variant", json!(variant)),
                    ("status", json!(outcome.status())),
                    ("why", json!(outcome.why())),
                    ("chosen_for", json!(chosen)),
                ];
                fields.extend(self.about.fields());
                let cells = [
                    kernel.name.to_owned(),
                    variant,
                    outcome.status().to_owned(),
                    chosen,
                    outcome.why().to_owned(),
                ];
                rows.row(&fields, &cells)?;
            }
        }
        rows.finish(Some(&format!("{}\n{}", tally.line(), self.about.line())))?;
        match tally.0.get("FAIL") {
            None => Ok(()),
            Some(count) => Err(DeviceError::Driver {
                name: self.about.adapter.clone(),
                reason: format!("{count} kernels were refused"),
            }
            .into()),
        }
    }
}

/// A case of each set of constants.
fn variants<'c>(kernel: &Kernel, cases: &'c [Case]) -> Vec<&'c Case> {
    let mut variants: BTreeMap<&[Constant], &Case> = BTreeMap::new();
    for case in cases.iter().filter(|case| case.kernel.name == kernel.name) {
        variants.entry(&case.constants).or_insert(case);
    }
    variants.into_values().collect()
}

/// `GROUP_SIZE=32`
fn variant(constants: &[Constant]) -> String {
    let words: Vec<String> = constants
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(" ")
}

/// Whether the driver takes the kernel; nothing is run.
async fn compiles(device: &mut Executor, case: &Case) -> Outcome {
    if let Some(why) = run::not_supported(device, case) {
        return Outcome::NotSupported(why);
    }
    let mut plan = Plan::default();
    let bindings = case
        .buffers
        .iter()
        .map(|words| plan.scratch("binding", words.len() as u64))
        .collect();
    plan.dispatches.push(Dispatch {
        label: case.name.clone(),
        kernel: case.kernel,
        params: case.params.clone(),
        constants: case.constants.clone(),
        bindings,
        grid: Grid::Fixed(case.grid),
    });
    match device.prepare(plan).await {
        Ok(plan) => {
            device.release(plan);
            Outcome::Ok
        }
        Err(error) => Outcome::Fail(error.to_string()),
    }
}

/// The operations that this kernel is chosen for on this device, of those that have several.
fn chosen_for(device: &Executor, kernel: &Kernel) -> String {
    let is_named = |kernels: &str| kernels.split(" / ").any(|name| name == kernel.name);
    let choices = kernel_choices(device.features()).into_iter();
    let chosen: Vec<&str> = choices
        .filter(|(_, kernels)| is_named(kernels))
        .map(|(operation, _)| operation)
        .collect();
    chosen.join(", ")
}

/// Times cases and prints them.
struct Perf<'a> {
    session: &'a Session<'a>,
    console: &'a Console,
    timer: Timer,
    /// Bytes or operations per ns.
    peaks: BTreeMap<Peak, f64>,
    rows: Rows,
    tally: Tally,
    /// What CUDA does with the same shapes.
    ruler: Option<Ruler<'a>>,
}

fn perf_columns(has_ruler: bool) -> Vec<Column> {
    let mut columns = vec![
        Column::text("kernel", 26),
        Column::text("case", 44),
        Column::number("µs", 10),
        Column::number("±", 8),
        Column::number("chained µs", 10),
        Column::number("GB/s", 8),
        Column::number("TOPS", 8),
        Column::number("% copy", 6),
        Column::number("% read", 6),
        Column::number("% of peak", 12),
    ];
    if has_ruler {
        columns.push(Column::number("% CUDA", 8));
    }
    columns
}

/// What was measured of a case.
struct Measured {
    free: Times,
    chained: Times,
}

impl Perf<'_> {
    /// Twice: in a small size, and in the one that is long enough.
    async fn peak(&mut self, device: &mut Executor, peak: Peak) -> Result<()> {
        let small = peak.case(0);
        let outcome = self.session.check(device, &small).await;
        if !matches!(outcome, Outcome::Ok) {
            return self.print(&small, &outcome, None);
        }
        let times = self.timer.time(device, &small, Order::Free).await?;
        let doublings = (Peak::LONG_ENOUGH_NS / times.median_ns()).log2().ceil();
        let mut size = (doublings.max(0.0) as u32).min(Peak::LARGEST);
        // The largest that fits, where the adapter has less memory than that.
        let (case, outcome, times) = loop {
            let case = peak.case(size);
            let outcome = self.session.check(device, &case).await;
            match (outcome, size) {
                (Outcome::Ok, _) => match self.timer.time(device, &case, Order::Free).await {
                    Ok(times) => break (case, Outcome::Ok, Some(times)),
                    Err(DeviceError::OutOfMemory { .. }) if size > 0 => size -= 1,
                    Err(error) => return Err(error.into()),
                },
                (Outcome::NotSupported(_), 1..) => size -= 1,
                (outcome, _) => break (case, outcome, None),
            }
        };
        if let Some(times) = &times {
            let work = if peak.is_of_operations() {
                case.ops
            } else {
                case.bytes()
            };
            self.peaks.insert(peak, work as f64 / times.median_ns());
        }
        if peak == Peak::Copy {
            self.time_copy(&case)?;
        }
        let measured = times.map(|free| Measured {
            chained: free.clone(),
            free,
        });
        self.print(&case, &outcome, measured.as_ref())
    }

    /// What a case would take, from what the adapter can do: some dispatches, at a quarter of that.
    fn estimate(&self, ops: u64, rate: Option<f64>) -> Duration {
        const DISPATCHES: f64 = 3.0;
        const SHARE: f64 = 0.25;
        let ns = rate.map_or(0.0, |rate| DISPATCHES * ops as f64 / (SHARE * rate));
        Duration::from_secs_f64((ns / 1e9).min(1e6))
    }

    fn too_long(&self, ops: u64, rate: Option<f64>) -> Option<Outcome> {
        let estimate = self.estimate(ops, rate);
        (estimate > self.timer.budget).then(|| {
            Outcome::LeftOut(format!(
                "would take about {:.0} s; --budget {:.0} times it",
                estimate.as_secs_f64(),
                estimate.as_secs_f64().ceil()
            ))
        })
    }

    /// The linears of one shape; they are not even made where the adapter is too slow for all of them.
    async fn large(&mut self, device: &mut Executor, large: Large) -> Result<()> {
        let fastest = self
            .peaks
            .iter()
            .filter(|(peak, _)| peak.is_of_operations());
        let fastest = fastest.map(|(_, rate)| *rate).reduce(f64::max);
        if let Some(outcome) = self.too_long(large.ops(), fastest) {
            if self.session.filter.0.is_none() {
                let line = format!(
                    "linears of rows={} in={} out={}: {}",
                    large.rows,
                    large.in_features,
                    large.out_features,
                    outcome.why()
                );
                self.console.note(line);
            }
            return Ok(());
        }
        let cases = self.session.seeded(|| large.cases());
        let cases = self.session.filter.select(cases);
        if !cases.is_empty() {
            self.time_products(large)?;
        }
        for case in cases {
            self.case(device, &case).await?;
        }
        self.ruler.iter_mut().for_each(Ruler::forget_products);
        Ok(())
    }

    async fn case(&mut self, device: &mut Executor, case: &Case) -> Result<()> {
        let peak = Peak::of_operations(case.kernel);
        let rate = peak.and_then(|peak| self.peaks.get(&peak).copied());
        let mut outcome = match self.too_long(case.ops, rate) {
            Some(outcome) => outcome,
            None => self.session.check(device, case).await,
        };
        let mut measured = None;
        if matches!(outcome, Outcome::Ok) {
            match self.measure(device, case).await {
                Ok(times) => measured = Some(times),
                Err(error @ DeviceError::OutOfMemory { .. }) => {
                    outcome = Outcome::NotSupported(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.print(case, &outcome, measured.as_ref())
    }

    async fn measure(
        &mut self,
        device: &mut Executor,
        case: &Case,
    ) -> Result<Measured, DeviceError> {
        Ok(Measured {
            free: self.timer.time(device, case, Order::Free).await?,
            chained: self.timer.time(device, case, Order::Chained).await?,
        })
    }

    fn print(&mut self, case: &Case, outcome: &Outcome, measured: Option<&Measured>) -> Result<()> {
        self.tally.add(outcome);
        let free_ns = measured.map(|measured| measured.free.median_ns());
        let gb_s = free_ns.map(|ns| case.bytes() as f64 / ns);
        let gops = free_ns
            .filter(|_| case.ops > 0)
            .map(|ns| case.ops as f64 / ns);
        let percent = |rate: Option<f64>, peak: Option<Peak>| {
            let peak = peak.and_then(|peak| self.peaks.get(&peak));
            rate.zip(peak).map(|(rate, peak)| 100.0 * rate / peak)
        };
        let bound = Peak::of_operations(case.kernel).filter(|_| case.ops > 0);
        let copy = percent(gb_s, Some(Peak::Copy));
        let read = percent(gb_s, Some(Peak::Read));
        let of_peak = percent(gops, bound);
        let us = |times: &Times| times.median_ns() / 1e3;
        let cuda_ns = self.ruler.as_ref().and_then(|ruler| ruler.ns(case.kernel));
        let of_cuda = cuda_ns.zip(free_ns).map(|(cuda, own)| 100.0 * cuda / own);
        let spread = measured.map(|measured| measured.free.spread_ns() / 1e3);
        let mut measured_fields = vec![
            ("us", number(free_ns.map(|ns| ns / 1e3))),
            ("spread_us", number(spread)),
            ("chained_us", number(measured.map(|m| us(&m.chained)))),
            ("gb_s", number(gb_s)),
            ("tops", number(gops.map(|gops| gops / 1e3))),
            ("copy_percent", number(copy)),
            ("read_percent", number(read)),
            ("peak", json!(bound.map(Peak::name))),
            ("peak_percent", number(of_peak)),
        ];
        if self.ruler.is_some() {
            measured_fields.push(("cuda_percent", number(of_cuda)));
        }
        let names = [case.kernel.name, &case.name];
        let fields = self
            .session
            .fields("perf", names, outcome, &measured_fields);
        let cell = |value: Option<f64>| value.map_or_else(String::new, digits);
        let columns = perf_columns(self.ruler.is_some()).len();
        let mut cells = if measured.is_some() {
            let name = bound.map_or("", Peak::name);
            vec![
                case.kernel.name.to_owned(),
                short_name(case),
                cell(free_ns.map(|ns| ns / 1e3)),
                cell(spread),
                cell(measured.map(|m| us(&m.chained))),
                cell(gb_s),
                cell(gops.map(|gops| gops / 1e3)),
                cell(copy),
                cell(read),
                of_peak.map_or_else(String::new, |percent| format!("{} {name}", digits(percent))),
            ]
        } else {
            let why = format!("{}: {}", outcome.status(), outcome.why());
            let mut cells = vec![case.kernel.name.to_owned(), short_name(case), why];
            cells.resize(columns, String::new());
            cells
        };
        if cells.len() < columns {
            cells.push(cell(of_cuda));
        }
        Ok(self.rows.row(&fields, &cells)?)
    }
}

/// Three digits that count, or all before the point.
fn digits(value: f64) -> String {
    let before = if value > 0.0 {
        value.log10().floor().max(-4.0) as i32
    } else {
        0
    };
    let after = (2 - before).clamp(0, 6) as usize;
    format!("{value:.after$}")
}

/// Null where nothing was measured.
fn number(value: Option<f64>) -> Value {
    json!(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let texts = [0.0, 0.001234, 0.05, 1.0, 12.345, 4206.7].map(digits);
        assert_eq!(texts, ["0.00", "0.00123", "0.0500", "1.00", "12.3", "4207"]);
    }

    #[test]
    fn a_tally_fails_where_a_case_does() {
        let mut tally = Tally::default();
        tally.add(&Outcome::Ok);
        tally.add(&Outcome::NotSupported("no subgroups".to_owned()));
        assert_eq!(tally.line(), "1 of 2 OK, 1 not supported");
        assert!(tally.result().is_ok());
        tally.add(&Outcome::Fail("binding 1".to_owned()));
        let error = tally.result().expect_err("a case fails");
        assert_eq!(crate::exit::code(&error), crate::exit::Code::NumericCheck);
    }

    #[test]
    fn a_filter_is_a_name_a_part_or_an_expression() {
        let cases = || cases::norm::cases();
        let first = name(&cases()[0]);
        let selected = |text: &str| Filter::new(Some(text)).map(|filter| filter.select(cases()));
        assert_eq!(selected(&first).map(|cases| cases.len()).ok(), Some(1));
        let all = cases().len();
        let norms = selected("^rms_norm ").map(|cases| cases.len()).unwrap_or(0);
        assert!(norms > 1 && norms < all);
        assert_eq!(selected(".").map(|cases| cases.len()).ok(), Some(all));
        assert!(selected("split=(").is_ok() && selected("nothing(").is_err());
    }
}
