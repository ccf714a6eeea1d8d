//! Times kernels on the best adapter: `cargo bench -p plateau-benches [WORD…]`.
//!
//! Without words: large linears, and of every other kernel the largest test case; on a software driver the largest test case of
//! every kernel. With words: every large linear and every test case whose kernel and name contain them all. A case is compared with its twin first; a wrong result has no speed.
//! `plateau bench-ops` does the same with more choices, and compares with what the adapter can do at most.
//!
//! Each dispatch waits for the one before, as in a model: see [`plateau_tests::timing`]. The median of the batches, and half
//! the distance between the quartiles. GB/s counts each word of the bindings once; GOPS counts two operations for a
//! multiply-add. Where there are an NVIDIA driver, NVRTC and cuBLASLt, the same run times the library's INT8 and FP16 products of the
//! large linears, and a copy: "% CUDA" is what CUDA takes over what ours does.

use plateau::exec::{self, DeviceChoice, Executor};
use plateau_tests::cuda::ruler::Ruler;
use plateau_tests::cuda::{Cuda, CudaError};
use plateau_tests::peaks::Peak;
use plateau_tests::timing::{Order, Timer, Times};
use plateau_tests::{Case, cases, run};
use std::collections::BTreeSet;
use std::time::Duration;

/// Of a case.
const BUDGET: Duration = Duration::from_secs(2);

fn main() {
    // Cargo says --bench.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if !pollster::block_on(run_all(&words)) {
        std::process::exit(1);
    }
}

async fn run_all(words: &[String]) -> bool {
    let opened = exec::open(&DeviceChoice::Auto)
        .await
        .expect("an adapter opens");
    println!("{}\n", opened.notice);
    let device = opened.executor;
    if device.adapter().is_none() {
        eprintln!("a bench needs an adapter");
        return false;
    }
    let is_software = device
        .adapter()
        .is_some_and(|adapter| adapter.kind == "software");
    let (large, others) = match (words.is_empty(), is_software) {
        (true, true) => (&[][..], cases::largest(&BTreeSet::new())),
        (true, false) => (
            &cases::Large::ALL[..],
            cases::largest(&cases::kernels_of_large()),
        ),
        (false, _) => (&cases::Large::ALL[..], cases::all()),
    };
    let is_wanted = |large: &cases::Large| {
        let mut names = large.names().into_iter();
        names.any(|(kernel, name)| matches(&format!("{kernel} {name}"), words))
    };
    let large: Vec<cases::Large> = large.iter().copied().filter(is_wanted).collect();
    let cuda = match (large.is_empty(), Cuda::open()) {
        (true, _) => None,
        (false, Ok(cuda)) => Some(cuda),
        (false, Err(error)) => {
            println!("no CUDA beside them: {error}\n");
            None
        }
    };
    let mut ruler = None;
    if let Some(cuda) = &cuda {
        match Ruler::open(cuda) {
            Ok(found) => ruler = Some(found),
            Err(error) => println!("no CUDA beside them: {error}\n"),
        }
    }
    println!(
        "| kernel | case | µs | ± | GB/s | GOPS | % CUDA |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    let mut bench = Bench {
        device,
        timer: Timer::new(BUDGET),
        ruler,
        right: true,
    };
    if let Err(error) = bench.copy().await {
        println!("| copy | | {error} | | | | |");
    }
    for large in large {
        if let Err(error) = bench.products(large) {
            println!("| cuBLASLt | | {error} | | | | |");
        }
        bench.run(large.cases(), words).await;
    }
    if let Some(ruler) = &mut bench.ruler {
        ruler.forget_products();
    }
    bench.run(others, words).await;
    bench.right
}

struct Bench<'a> {
    device: Executor,
    timer: Timer,
    ruler: Option<Ruler<'a>>,
    /// Whether every result was.
    right: bool,
}

impl Bench<'_> {
    /// A copy, by CUDA and by ours.
    async fn copy(&mut self) -> Result<(), CudaError> {
        if let Some(ruler) = &mut self.ruler {
            let case = Peak::Copy.case(Peak::LARGEST);
            let times = ruler.time_copy(case.buffers[0].len())?;
            println!(
                "{}",
                row(
                    ["CUDA copy", &case.name],
                    &times,
                    case.bytes(),
                    0,
                    Some(times.median_ns())
                )
            );
            self.run(vec![case], &[]).await;
        }
        Ok(())
    }

    /// The library's products of this shape.
    fn products(&mut self, large: cases::Large) -> Result<(), CudaError> {
        if let Some(ruler) = &mut self.ruler {
            let name = format!(
                "rows={} in={} out={}",
                large.rows, large.in_features, large.out_features
            );
            for (format, times, bytes) in ruler.time_products(large)? {
                println!(
                    "{}",
                    row(
                        [format.name(), &name],
                        &times,
                        bytes,
                        large.ops(),
                        Some(times.median_ns())
                    )
                );
            }
        }
        Ok(())
    }

    /// Those whose kernel and name contain all words.
    async fn run(&mut self, cases: Vec<Case>, words: &[String]) {
        for case in &cases {
            let names = [case.kernel.name, &case.name];
            if !matches(&names.join(" "), words) {
                continue;
            }
            let line = match run::not_supported(&self.device, case) {
                Some(reason) => format!("| {} | {} | {reason} | | | | |", names[0], names[1]),
                None => match self.checked(case).await {
                    Ok(times) => {
                        let cuda_ns = self.ruler.as_ref().and_then(|ruler| ruler.ns(case.kernel));
                        row(names, &times, case.bytes(), case.ops, cuda_ns)
                    }
                    Err(message) => {
                        self.right = false;
                        format!("| {} | {} | wrong: {message} | | | | |", names[0], names[1])
                    }
                },
            };
            println!("{line}");
        }
    }

    async fn checked(&mut self, case: &Case) -> Result<Times, String> {
        run::check(&mut self.device, case).await?;
        let times = self
            .timer
            .time(&mut self.device, case, Order::Chained)
            .await;
        times.map_err(|error| error.to_string())
    }
}

fn matches(name: &str, words: &[String]) -> bool {
    words.iter().all(|word| name.contains(word.as_str()))
}

fn row(names: [&str; 2], times: &Times, bytes: u64, ops: u64, cuda_ns: Option<f64>) -> String {
    let median = times.median_ns();
    let optional =
        |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
    format!(
        "| {} | {} | {:.2} | {:.2} | {:.2} | {} | {} |",
        names[0],
        names[1],
        median / 1e3,
        times.spread_ns() / 1e3,
        bytes as f64 / median,
        optional((ops > 0).then(|| ops as f64 / median)),
        optional(cuda_ns.map(|cuda| 100.0 * cuda / median)),
    )
}
