//! How long a case takes on a device. The kernel bench and `plateau bench-ops` time with this.

use crate::case::Case;
use plateau::exec::{DeviceError, Executor, PlanId, ProfileDetail};
use plateau::plan::{BufferId, Dispatch, Grid, Plan};
use plateau_shaders::Access;
use std::time::{Duration, Instant};

/// Whether a dispatch waits for the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each writes its own buffers, so that the next one starts while it ends: what the kernel itself takes.
    Free,
    /// All write the same buffers: what the kernel takes in a model, the wait for the one before it included.
    Chained,
}

/// Nanoseconds of one dispatch, in several batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// Ascending; at least one.
    batches: Vec<f64>,
}

impl Times {
    /// At least one batch.
    pub(crate) fn of(mut batches: Vec<f64>) -> Self {
        batches.sort_by(f64::total_cmp);
        Self { batches }
    }

    fn at(&self, share: f64) -> f64 {
        self.batches[(share * (self.batches.len() - 1) as f64).round() as usize]
    }

    pub fn median_ns(&self) -> f64 {
        self.at(0.5)
    }

    /// Half the distance between the quartiles.
    pub fn spread_ns(&self) -> f64 {
        (self.at(0.75) - self.at(0.25)) / 2.0
    }
}

/// Times cases on one device, one after the other.
///
/// A batch is one submission of the same dispatch many times over. What is only read lies in several copies that take turns,
/// so that large weights come from memory and not from a cache. Time is what the device's timestamps say around a batch, or
/// the wall clock where it has none.
#[derive(Clone, Debug)]
pub struct Timer {
    /// What a case may take at most, but for the few dispatches that are always needed.
    pub budget: Duration,
    /// When the device was last seen at work: a GPU that rests lowers its clock.
    busy: Option<Instant>,
}

const BATCHES: usize = 11;
/// Dispatches of a batch at most.
const MOST: usize = 256;
/// About what a batch takes, if not even one dispatch is longer.
const BATCH: Duration = Duration::from_millis(10);
/// More than a cache holds; and copies of what is read, or written, at most.
const COLD_BYTES: u64 = 256 << 20;
const COLD_BYTES_OF_HOST: u64 = 64 << 20;
const COPIES: u64 = 64;
/// For a GPU that rested longer than the second, and for one that did not.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_millis(200);
const SHORT_WARM_UP: Duration = Duration::from_millis(50);

impl Timer {
    pub fn new(budget: Duration) -> Self {
        Self { budget, busy: None }
    }

    /// The case is right: the caller has checked it.
    pub async fn time(
        &mut self,
        device: &mut Executor,
        case: &Case,
        order: Order,
    ) -> Result<Times, DeviceError> {
        let is_software = device
            .adapter()
            .is_none_or(|adapter| adapter.kind == "software");
        let cold_bytes = if is_software {
            COLD_BYTES_OF_HOST
        } else {
            COLD_BYTES
        };
        let plan = prepare(device, case, order, cold_bytes).await?;
        let times = self.time_plan(device, plan, is_software).await;
        device.release(plan);
        self.busy = Some(Instant::now());
        times
    }

    async fn time_plan(
        &mut self,
        device: &mut Executor,
        plan: PlanId,
        is_software: bool,
    ) -> Result<Times, DeviceError> {
        let started = Instant::now();
        let first = batch(device, plan, 1).await?;
        if first > self.budget.as_nanos() as f64 {
            let batches = vec![first];
            return Ok(Times { batches });
        }
        let one = batch(device, plan, 1).await?;
        let count = (BATCH.as_nanos() as f64 / one.max(1.0)).clamp(1.0, MOST as f64) as usize;
        let rested = self.busy.is_none_or(|busy| busy.elapsed() > REST);
        let warm_up = match (is_software, rested) {
            (true, _) => Duration::ZERO,
            (false, true) => WARM_UP,
            (false, false) => SHORT_WARM_UP,
        };
        let warm = Instant::now();
        while warm.elapsed() < warm_up {
            batch(device, plan, count).await?;
        }
        let mut batches = Vec::new();
        while batches.is_empty() || batches.len() < BATCHES && started.elapsed() < self.budget {
            batches.push(batch(device, plan, count).await? / count as f64);
        }
        Ok(Times::of(batches))
    }
}

/// One submission of the first `count` dispatches, in ns.
async fn batch(device: &mut Executor, plan: PlanId, count: usize) -> Result<f64, DeviceError> {
    let has_stamps = device.start_profile(ProfileDetail::Runs);
    let start = Instant::now();
    device.run_range(plan, 0..count)?;
    device.finish().await?;
    let wall = start.elapsed().as_nanos() as f64;
    let runs = device.take_profile().await?;
    Ok(match runs.first() {
        Some(run) if has_stamps && run.ns() > 0 => run.ns() as f64,
        _ => wall,
    })
}

/// The dispatch of `case` [`MOST`] times over, with its inputs in place.
async fn prepare(
    device: &mut Executor,
    case: &Case,
    order: Order,
    cold_bytes: u64,
) -> Result<PlanId, DeviceError> {
    let is_read = |i: usize| case.kernel.bindings[i] == Access::Read;
    let copies = |read: bool| {
        let bytes: u64 = (0..case.buffers.len())
            .filter(|&i| is_read(i) == read)
            .map(|i| 4 * case.buffers[i].len() as u64)
            .sum();
        cold_bytes.div_ceil(bytes.max(1)).clamp(1, COPIES) as usize
    };
    let read_copies = copies(true);
    let written_copies = match order {
        // More than one, or nothing would be free.
        Order::Free => copies(false).max(2),
        Order::Chained => 1,
    };
    let mut plan = Plan::default();
    let mut filled = Vec::new();
    let buffers: Vec<Vec<BufferId>> = (0..case.buffers.len())
        .map(|i| {
            let count = if is_read(i) {
                read_copies
            } else {
                written_copies
            };
            let ids: Vec<BufferId> = (0..count)
                .map(|copy| {
                    let label = format!("binding {} copy {copy}", i + 1);
                    plan.scratch(label, case.buffers[i].len() as u64)
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
    Ok(plan)
}
