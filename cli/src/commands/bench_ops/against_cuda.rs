//! `--against cuda`: an independent implementation as the other side, and NVIDIA's own library as the ruler.

use super::{Outcome, Perf, Session, digits, name, number};
use crate::console::Console;
use crate::exit::CliError;
use crate::rows::{Column, Rows};
use anyhow::Result;
use plateau::exec::{Executor, KernelChoice, KernelChoices, open_with};
use plateau_tests::cases::Large;
use plateau_tests::compare::Deviation;
use plateau_tests::cuda::faults::plant_all;
use plateau_tests::cuda::matmul::Library;
use plateau_tests::cuda::models::{self, Report, Subject};
use plateau_tests::cuda::ruler::Ruler;
use plateau_tests::cuda::{Cuda, CudaError, Tally, check};
use plateau_tests::timing::Times;
use plateau_tests::{Case, cases, run};
use serde_json::json;
use std::time::Instant;

/// Seeds of a test of everything.
const SEEDS: [u64; 3] = [0, 1, 2];
/// Of a model's comparison: more than a page of keys, so that attention folds.
const PROMPT: usize = 71;
const STEPS: usize = 64;

/// CUDA, and the library where it is there.
pub struct Peer {
    cuda: Cuda,
}

impl Peer {
    pub fn open() -> Result<Self> {
        Ok(Self {
            cuda: Cuda::open()?,
        })
    }

    /// What is there.
    pub fn say(&self, console: &Console) -> Result<()> {
        let seconds = self.cuda.compile_time().as_secs_f64();
        console.note(format!(
            "CUDA: {}, kernels compiled in {seconds:.1} s",
            self.cuda.name()
        ));
        self.library(console).map(drop)
    }

    pub(super) fn ruler(&self) -> Result<Ruler<'_>> {
        Ok(Ruler::open(&self.cuda)?)
    }

    fn library(&self, console: &Console) -> Result<Option<Library<'_>>> {
        match Library::open(&self.cuda) {
            Ok(library) => Ok(Some(library)),
            Err(error @ CudaError::Missing { .. }) => {
                console.note(format!("left out: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What the comparison of all came to.
#[derive(Default)]
struct Found {
    tally: Tally,
    by_library: usize,
    not_supported: usize,
    failed: usize,
    faults: usize,
}

fn columns() -> Vec<Column> {
    vec![
        Column::text("kernel", 26),
        Column::text("case", 30),
        Column::text("result", 8),
        Column::number("compared", 9),
        Column::number("values", 11),
        Column::number("error / allowed", 15),
        Column::number("NMSE", 9),
        Column::number("steps off", 9),
        Column::text("why", 3),
    ]
}

impl Session<'_> {
    pub(super) async fn test_against(
        mut self,
        peer: &Peer,
        device: &mut Executor,
        console: &Console,
    ) -> Result<()> {
        let library = peer.library(console)?;
        let mut others = self.with_other_matrices(device).await;
        let started = Instant::now();
        let mut rows = Rows::new(self.args.output, columns());
        let mut found = Found::default();
        let seeds = self
            .args
            .seed
            .map_or(SEEDS.to_vec(), |seed| Vec::from([seed]));
        for &seed in &seeds {
            self.seed = seed;
            let cases = self.filter.select(self.seeded(cases::all));
            for case in &cases {
                let matrices = case.kernel.matrices();
                let runs_it = |other: &&mut Executor| {
                    matrices == other.features().gemms.matrices() && matrices.is_some()
                };
                let on = others.iter_mut().find(runs_it).unwrap_or(device);
                self.compare(peer, library.as_ref(), on, case, &mut rows, &mut found)
                    .await?;
            }
            if seed == seeds[0] {
                let planted = plant_all(device, &peer.cuda, &cases).await;
                let planted = planted.map_err(CliError::NumericCheck)?;
                found.faults = planted.noticed;
                for missed in planted.missed {
                    let why = "the planted fault was not noticed";
                    self.fail(&mut rows, &mut found, ["planted fault", &missed], why)?;
                }
            }
        }
        for (kernel, (count, worst)) in &found.tally.0 {
            self.row(&mut rows, [kernel, ""], &Outcome::Ok, *count, worst)?;
        }
        let cases_took = started.elapsed().as_secs_f64();
        let mut models = 0;
        for subject in Subject::ALL {
            let label = format!("model {}", subject.name);
            if self.filter.is_found(&label) {
                models += 1;
                let report = self.compare_model(peer, subject).await;
                self.report_model(&mut rows, &mut found, subject, report)?;
            }
        }
        if found.tally.count() + found.failed + models == 0 {
            return Err(self.no_case());
        }
        let line = format!(
            "{} of {} cases agree with CUDA, INT8 accumulators of {} with cuBLASLt too; {} not supported; {} planted faults noticed; \
             seeds {seeds:?}, {cases_took:.0} s; {models} models, {:.0} s\nCUDA: {}, compiled in {:.1} s\n{}",
            found.tally.count(),
            found.tally.count() + found.failed,
            found.by_library,
            found.not_supported,
            found.faults,
            started.elapsed().as_secs_f64() - cases_took,
            peer.cuda.name(),
            peer.cuda.compile_time().as_secs_f64(),
            self.about.line()
        );
        rows.finish(Some(&line))?;
        match found.failed {
            0 => Ok(()),
            count => {
                let line = format!("{count} comparisons with CUDA failed");
                Err(CliError::NumericCheck(line).into())
            }
        }
    }

    /// The device opened once more for each kind of matrices that it has and was not chosen: a device runs the kernels of one.
    async fn with_other_matrices(&self, device: &Executor) -> Vec<Executor> {
        let mut others = Vec::new();
        if self.args.device.kernels != KernelChoice::Auto {
            return others;
        }
        for linears in [KernelChoice::Coop, KernelChoice::CoopInt8] {
            let kernels = KernelChoices {
                linears,
                ..self.args.device.choices()
            };
            let Ok(opened) = open_with(&self.args.device.device, kernels).await else {
                continue;
            };
            if opened.executor.features().gemms != device.features().gemms {
                others.push(opened.executor);
            }
        }
        others
    }

    async fn compare(
        &self,
        peer: &Peer,
        library: Option<&Library<'_>>,
        device: &mut Executor,
        case: &Case,
        rows: &mut Rows,
        found: &mut Found,
    ) -> Result<()> {
        if run::not_supported(device, case).is_some() {
            found.not_supported += 1;
            return Ok(());
        }
        match check(device, &peer.cuda, library, case).await {
            Ok(agreed) => {
                found.tally.add(case.kernel.name, &agreed.deviation);
                found.by_library += usize::from(agreed.by_library);
                Ok(())
            }
            Err(why) => {
                let why = format!("{why}; again: {}", self.replay(&name(case)));
                self.fail(rows, found, [case.kernel.name, &case.name], &why)
            }
        }
    }

    async fn compare_model(&self, peer: &Peer, subject: &Subject) -> Result<Report, String> {
        let device = &self.args.device;
        let opened = open_with(&device.device, device.choices()).await;
        let executor = opened.map_err(|error| error.to_string())?.executor;
        let session = subject.load(executor).await;
        let mut session = session.map_err(|error| error.to_string())?;
        let prompt = subject.prompt(PROMPT);
        let report = models::check(&peer.cuda, &mut session, subject, &prompt, STEPS).await;
        report.map_err(|error| error.to_string())
    }

    fn report_model(
        &self,
        rows: &mut Rows,
        found: &mut Found,
        subject: &Subject,
        report: Result<Report, String>,
    ) -> Result<()> {
        let label = format!("model {}", subject.name);
        let report = match report {
            Ok(report) => report,
            Err(why) => {
                let why = format!("{why}; again: {}", self.replay(&label));
                return self.fail(rows, found, ["model", subject.name], &why);
            }
        };
        let mut worst = Deviation::default();
        for (_, of_kernel) in report.tally.0.values() {
            worst.add(of_kernel);
        }
        let gaps: Vec<String> = report.near_ties.iter().map(|gap| digits(*gap)).collect();
        let about = match gaps.len() {
            0 => format!("{} of {0} tokens equal", report.tokens),
            ties => format!(
                "{} of {} tokens equal, near ties: {}",
                report.tokens - ties,
                report.tokens,
                gaps.join(" ")
            ),
        };
        let name = format!("{}: {about}, logits {:.1e}", subject.name, report.logits);
        self.row(
            rows,
            ["model", &name],
            &Outcome::Ok,
            report.tally.count(),
            &worst,
        )
    }

    fn fail(&self, rows: &mut Rows, found: &mut Found, names: [&str; 2], why: &str) -> Result<()> {
        found.failed += 1;
        let outcome = Outcome::Fail(why.to_owned());
        self.row(rows, names, &outcome, 1, &Deviation::default())
    }

    fn row(
        &self,
        rows: &mut Rows,
        names: [&str; 2],
        outcome: &Outcome,
        compared: usize,
        worst: &Deviation,
    ) -> Result<()> {
        let measured = [
            ("against", json!("cuda")),
            ("compared", json!(compared)),
            ("values", json!(worst.values)),
            ("of_allowed", json!(worst.of_allowed)),
            ("nmse", json!(worst.nmse)),
            ("steps_off", json!(worst.off_by_one)),
        ];
        let fields = self.fields("test", names, outcome, &measured);
        let cells = [
            names[0].to_owned(),
            names[1].to_owned(),
            outcome.status().to_owned(),
            compared.to_string(),
            worst.values.to_string(),
            digits(worst.of_allowed),
            format!("{:.1e}", worst.nmse),
            worst.off_by_one.to_string(),
            outcome.why().to_owned(),
        ];
        Ok(rows.row(&fields, &cells)?)
    }
}

impl Perf<'_> {
    /// A copy of as many words as `case` copies.
    pub(super) fn time_copy(&mut self, case: &Case) -> Result<()> {
        let Some(ruler) = &mut self.ruler else {
            return Ok(());
        };
        let times = ruler.time_copy(case.buffers[0].len())?;
        self.print_times(["CUDA copy", &case.name], &times, case.bytes(), 0)
    }

    /// The library's products of this shape.
    pub(super) fn time_products(&mut self, large: Large) -> Result<()> {
        let Some(ruler) = &mut self.ruler else {
            return Ok(());
        };
        let Large {
            rows,
            in_features,
            out_features,
        } = large;
        let name = format!("rows={rows} in={in_features} out={out_features}");
        for (format, times, bytes) in ruler.time_products(large)? {
            self.print_times([format.name(), &name], &times, bytes, large.ops())?;
        }
        Ok(())
    }

    fn print_times(&mut self, names: [&str; 2], times: &Times, bytes: u64, ops: u64) -> Result<()> {
        let ns = times.median_ns();
        let gb_s = bytes as f64 / ns;
        let tops = (ops > 0).then(|| ops as f64 / ns / 1e3);
        let none = || json!(null);
        let measured = [
            ("us", json!(ns / 1e3)),
            ("spread_us", json!(times.spread_ns() / 1e3)),
            ("chained_us", none()),
            ("gb_s", json!(gb_s)),
            ("tops", number(tops)),
            ("copy_percent", none()),
            ("read_percent", none()),
            ("peak", none()),
            ("peak_percent", none()),
            ("cuda_percent", json!(100.0)),
        ];
        let fields = self.session.fields("perf", names, &Outcome::Ok, &measured);
        let empty = String::new;
        let cells = [
            names[0].to_owned(),
            names[1].to_owned(),
            digits(ns / 1e3),
            digits(times.spread_ns() / 1e3),
            empty(),
            digits(gb_s),
            tops.map_or_else(empty, digits),
            empty(),
            empty(),
            empty(),
            digits(100.0),
        ];
        Ok(self.rows.row(&fields, &cells)?)
    }
}
