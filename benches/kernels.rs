//! Times kernels on the best adapter: `cargo bench -p plateau-benches [WORD…]`.
//!
//! Without words: large linears, and of every other kernel the largest test case. With words: every large linear and every
//! test case whose kernel and name contain them all. A case is compared with its twin first; a wrong result has no speed.
//!
//! A batch is one submission of the same dispatch many times over, each of which waits for the one before, since they write
//! the same buffers. What is only read lies in several copies that take turns, so that large weights come from memory and
//! not from a cache. Times are wall times of a batch over its dispatches: the median of the batches, and half the distance
//! between the quartiles. GB/s counts each word of the bindings once; GOPS counts two operations for a multiply-add.

use plateau::exec::{self, DeviceChoice, Executor, PlanId};
use plateau::plan::{BufferId, Dispatch, Grid, Plan};
use plateau_shaders::Access;
use plateau_tests::{Case, cases, run};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const BATCHES: usize = 15;
/// Dispatches of a batch at most.
const MOST: usize = 256;
/// About what a batch takes, if not even one dispatch is longer.
const BATCH: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_millis(500);
/// More than a cache holds; and copies of what is read at most.
const COLD_BYTES: u64 = 256 << 20;
const COPIES: u64 = 8;

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
    let mut right = true;
    for case in selected(words) {
        let largest = case
            .buffers
            .iter()
            .map(|words| 4 * words.len() as u64 + 64)
            .max();
        let line = if case.kernel.subgroups && !device.features().subgroups {
            "this adapter has no subgroups | | |".to_owned()
        } else if largest.is_some_and(|bytes| bytes > device.max_buffer_bytes()) {
            "does not fit one binding of this adapter | | |".to_owned()
        } else {
            match checked(&mut device, &case).await {
                Ok(times) => row(&case, &times),
                Err(message) => {
                    right = false;
                    format!("wrong: {message} | | |")
                }
            }
        };
        println!("| {} | {} | {line} |", case.kernel.name, case.name);
    }
    right
}

fn selected(words: &[String]) -> Vec<Case> {
    let large = large();
    if words.is_empty() {
        let mut largest: BTreeMap<&str, Case> = BTreeMap::new();
        for case in cases::all()
            .into_iter()
            .filter(|case| large.iter().all(|l| l.kernel.name != case.kernel.name))
        {
            match largest.get(case.kernel.name) {
                Some(other) if (other.ops, other.bytes()) >= (case.ops, case.bytes()) => {}
                _ => drop(largest.insert(case.kernel.name, case)),
            }
        }
        return large.into_iter().chain(largest.into_values()).collect();
    }
    let found = |case: &Case| {
        let text = format!("{} {}", case.kernel.name, case.name);
        words.iter().all(|word| text.contains(word.as_str()))
    };
    large
        .into_iter()
        .chain(cases::all())
        .filter(found)
        .collect()
}

/// Nanoseconds of one dispatch in each batch, ascending.
async fn checked(device: &mut Executor, case: &Case) -> Result<Vec<f64>, String> {
    run::check(device, case).await?;
    timed(device, case).await.map_err(|error| error.to_string())
}

async fn timed(device: &mut Executor, case: &Case) -> Result<Vec<f64>, exec::DeviceError> {
    let is_read = |i: usize| case.kernel.bindings[i] == Access::Read;
    let read: u64 = (0..case.buffers.len())
        .filter(|&i| is_read(i))
        .map(|i| 4 * case.buffers[i].len() as u64)
        .sum();
    let copies = COLD_BYTES.div_ceil(read.max(1)).clamp(1, COPIES) as usize;
    let mut plan = Plan::default();
    let mut filled = Vec::new();
    let buffers: Vec<Vec<BufferId>> = (0..case.buffers.len())
        .map(|i| {
            let ids: Vec<BufferId> = (0..if is_read(i) { copies } else { 1 })
                .map(|copy| {
                    plan.scratch(
                        format!("binding {} copy {copy}", i + 1),
                        case.buffers[i].len() as u64,
                    )
                })
                .collect();
            filled.extend(ids.iter().map(|&id| (id, i)));
            ids
        })
        .collect();
    plan.dispatches = (0..MOST)
        .map(|n| Dispatch {
            label: case.name.clone(),
            kernel: case.kernel,
            params: case.params.clone(),
            constants: case.constants.clone(),
            bindings: buffers.iter().map(|ids| ids[n % ids.len()]).collect(),
            grid: Grid::Fixed(case.grid),
        })
        .collect();
    let plan = device.prepare(plan).await?;
    for (id, i) in filled {
        device.write_in(Some(plan), id, 0, &case.buffers[i])?;
    }
    batch(device, plan, 1).await?;
    let one = batch(device, plan, 1).await?;
    let count = (BATCH.as_nanos() / one.as_nanos().max(1)).clamp(1, MOST as u128) as usize;
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        batch(device, plan, count).await?;
    }
    let mut times = Vec::new();
    for _ in 0..BATCHES {
        times.push(batch(device, plan, count).await?.as_nanos() as f64 / count as f64);
    }
    device.release(plan);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

async fn batch(
    device: &mut Executor,
    plan: PlanId,
    count: usize,
) -> Result<Duration, exec::DeviceError> {
    let start = Instant::now();
    device.run_range(plan, 0..count)?;
    device.finish().await?;
    Ok(start.elapsed())
}

fn row(case: &Case, times: &[f64]) -> String {
    let at = |share: f64| times[(share * (times.len() - 1) as f64).round() as usize];
    let (median, spread) = (at(0.5), (at(0.75) - at(0.25)) / 2.0);
    let gops = if case.ops == 0 {
        String::new()
    } else {
        format!("{:.1}", case.ops as f64 / median)
    };
    format!(
        "{:.2} | {:.2} | {:.2} | {gops}",
        median / 1e3,
        spread / 1e3,
        case.bytes() as f64 / median
    )
}

/// Linears of the shapes that models have: one row, and a slice of a prompt.
fn large() -> Vec<Case> {
    let mut cases = Vec::new();
    for (in_features, out_features) in [(4096, 4096), (4096, 14336)] {
        for rows in [1, 128] {
            cases.extend(cases::linear_float::plain(rows, in_features, out_features));
            cases.extend(cases::linear_int::plain(rows, in_features, out_features));
        }
    }
    cases
}
