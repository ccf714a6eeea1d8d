//! Times kernels on the best adapter: `cargo bench -p plateau-benches [WORD…]`.
//!
//! Without words: large linears, and of every other kernel the largest test case; on a software driver the largest test case of
//! every kernel. With words: every large linear and every test case whose kernel and name contain them all. A case is compared with its twin first; a wrong result has no speed.
//! `plateau bench-ops` does the same with more choices, and compares with what the adapter can do at most.
//!
//! Each dispatch waits for the one before, as in a model: see [`plateau_tests::timing`]. The median of the batches, and half
//! the distance between the quartiles. GB/s counts each word of the bindings once; GOPS counts two operations for a
//! multiply-add.

use plateau::exec::{self, DeviceChoice, Executor};
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
    let mut device = opened.executor;
    if device.adapter().is_none() {
        eprintln!("a bench needs an adapter");
        return false;
    }
    println!("| kernel | case | µs | ± | GB/s | GOPS |\n| --- | --- | ---: | ---: | ---: | ---: |");
    let mut timer = Timer::new(BUDGET);
    let mut right = true;
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
    let large = large.iter().copied().filter(is_wanted);
    let large = large.flat_map(cases::Large::cases);
    for case in large
        .chain(others)
        .filter(|case| matches(&format!("{} {}", case.kernel.name, case.name), words))
    {
        let line = match run::not_supported(&device, &case) {
            Some(reason) => format!("{reason} | | |"),
            None => match checked(&mut timer, &mut device, &case).await {
                Ok(times) => row(&case, &times),
                Err(message) => {
                    right = false;
                    format!("wrong: {message} | | |")
                }
            },
        };
        println!("| {} | {} | {line} |", case.kernel.name, case.name);
    }
    right
}

fn matches(name: &str, words: &[String]) -> bool {
    words.iter().all(|word| name.contains(word.as_str()))
}

async fn checked(timer: &mut Timer, device: &mut Executor, case: &Case) -> Result<Times, String> {
    run::check(device, case).await?;
    let times = timer.time(device, case, Order::Chained).await;
    times.map_err(|error| error.to_string())
}

fn row(case: &Case, times: &Times) -> String {
    let median = times.median_ns();
    let gops = if case.ops == 0 {
        String::new()
    } else {
        format!("{:.1}", case.ops as f64 / median)
    };
    format!(
        "{:.2} | {:.2} | {:.2} | {gops}",
        median / 1e3,
        times.spread_ns() / 1e3,
        case.bytes() as f64 / median
    )
}
