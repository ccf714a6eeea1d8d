//! Runs the twins over host memory: the definition of every result, and the fallback of a machine without a GPU driver.

use super::DeviceError;
use super::profile::{DispatchTime, ProfileDetail, RunTimes};
use crate::plan::{BufferDesc, BufferId, Dispatch, Plan};
use plateau_shaders::{Access, Buffer, Call};
use std::ops::Range;
use std::time::Instant;

/// For messages.
pub(super) const NAME: &str = "CPU twins";

/// Host memory for the shared buffers and for the scratch of each prepared plan.
#[derive(Default)]
pub struct CpuExecutor {
    shared: Vec<Vec<u32>>,
    plans: Vec<Option<(Plan, Vec<Vec<u32>>)>>,
    profiler: Option<Profiler>,
}

/// Notes when twins ran.
struct Profiler {
    detail: ProfileDetail,
    zero: Instant,
    runs: Vec<RunTimes>,
}

impl Profiler {
    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl CpuExecutor {
    pub(super) fn allocate(&mut self, desc: &BufferDesc) -> Result<(), DeviceError> {
        self.shared.push(zeros(desc)?);
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.shared.truncate(len);
    }

    pub(super) fn prepare(&mut self, plan: Plan) -> Result<usize, DeviceError> {
        let scratch: Result<_, DeviceError> = plan.scratch.iter().map(zeros).collect();
        let scratch = scratch?;
        self.plans.push(Some((plan, scratch)));
        Ok(self.plans.len() - 1)
    }

    pub(super) fn release(&mut self, plan: usize) {
        self.plans[plan] = None;
    }

    pub(super) fn words_mut(&mut self, plan: Option<usize>, id: BufferId) -> &mut [u32] {
        match id {
            BufferId::Shared(i) => &mut self.shared[i as usize],
            BufferId::Scratch(i) => {
                let plan = plan.expect("a scratch buffer is named together with its plan");
                &mut self.plans[plan]
                    .as_mut()
                    .expect("the plan was not released")
                    .1[i as usize]
            }
        }
    }

    /// Number of dispatches of a plan.
    pub(super) fn len(&self, plan: usize) -> usize {
        self.plans[plan]
            .as_ref()
            .expect("the plan was not released")
            .0
            .dispatches
            .len()
    }

    pub(super) fn run(&mut self, plan: usize, dispatches: Range<usize>) {
        let (plan, scratch) = self.plans[plan]
            .as_mut()
            .expect("the plan was not released");
        let mut start_ns = self.profiler.as_ref().map_or(0, Profiler::now);
        let mut run = RunTimes {
            start_ns,
            ..RunTimes::default()
        };
        for dispatch in &plan.dispatches[dispatches] {
            run_dispatch(dispatch, &mut self.shared, scratch);
            if let Some(profiler) = &self.profiler {
                let end_ns = profiler.now();
                if profiler.detail == ProfileDetail::Dispatches {
                    run.dispatches.push(DispatchTime {
                        kernel: dispatch.kernel.name,
                        label: dispatch.label.clone(),
                        start_ns,
                        end_ns,
                    });
                }
                start_ns = end_ns;
            }
        }
        run.end_ns = start_ns;
        if let Some(profiler) = &mut self.profiler {
            profiler.runs.push(run);
        }
    }

    pub(super) fn start_profile(&mut self, detail: ProfileDetail) {
        self.profiler = Some(Profiler {
            detail,
            zero: Instant::now(),
            runs: Vec::new(),
        });
    }

    pub(super) fn take_profile(&mut self) -> Vec<RunTimes> {
        self.profiler
            .take()
            .map_or(Vec::new(), |profiler| profiler.runs)
    }
}

/// Host memory for a buffer. A refusal is an error; a system that promises more than it has may still end the program later,
/// which is why a session asks [`available_memory`] first.
fn zeros(desc: &BufferDesc) -> Result<Vec<u32>, DeviceError> {
    let out_of_memory = || DeviceError::OutOfMemory {
        name: NAME.to_owned(),
        label: desc.label.clone(),
        bytes: desc.bytes(),
    };
    let len = usize::try_from(desc.words).map_err(|_| out_of_memory())?;
    // The system's own zeros, which take no memory before they are written.
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| out_of_memory())
}

/// Host memory that new buffers can have without swapping, in bytes, where the system tells.
pub(super) fn available_memory() -> Option<u64> {
    if cfg!(target_os = "linux") {
        mem_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
    } else {
        None
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn run_dispatch(dispatch: &Dispatch, shared: &mut [Vec<u32>], scratch: &mut [Vec<u32>]) {
    // Buffers that are written are taken out for the time of the call, so that the others can be lent.
    let mut written: Vec<(BufferId, Vec<u32>)> = dispatch
        .writes()
        .map(|id| match id {
            BufferId::Shared(i) => (id, std::mem::take(&mut shared[i as usize])),
            BufferId::Scratch(i) => (id, std::mem::take(&mut scratch[i as usize])),
        })
        .collect();
    let mut writes = written.iter_mut();
    let buffers = dispatch
        .bindings
        .iter()
        .zip(dispatch.kernel.bindings)
        .map(|(id, access)| match (access, id) {
            (Access::Read, BufferId::Shared(i)) => Buffer::Read(&shared[*i as usize]),
            (Access::Read, BufferId::Scratch(i)) => Buffer::Read(&scratch[*i as usize]),
            (Access::ReadWrite, _) => {
                Buffer::ReadWrite(&mut writes.next().expect("written has one entry for each").1)
            }
        })
        .collect();
    (dispatch.kernel.run)(&mut Call::new(
        &dispatch.params,
        &dispatch.constants,
        buffers,
    ));
    for (id, words) in written {
        match id {
            BufferId::Shared(i) => shared[i as usize] = words,
            BufferId::Scratch(i) => scratch[i as usize] = words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let meminfo =
            "MemTotal:       24689764 kB\nMemFree:        1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(mem_available(meminfo), Some(2 << 20));
        for other in [
            "",
            "MemTotal: 5 kB\n",
            "MemAvailable: many kB\n",
            "MemAvailable: 5\n",
        ] {
            assert_eq!(mem_available(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_buffer_that_no_host_has_is_an_error() {
        // More than addresses reach, more than an allocation may have, and more than can be counted in bytes.
        for words in [1 << 50, 1 << 61, u64::MAX] {
            let desc = BufferDesc {
                label: "w".to_owned(),
                words,
            };
            let error = CpuExecutor::default()
                .allocate(&desc)
                .expect_err("too large");
            assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
        }
    }
}
