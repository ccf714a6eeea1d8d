//! How a plan runs: on a GPU, or through the twins.
//!
//! Both executors hold the shared buffers, prepare plans once and run them many times. Work is submitted without waiting;
//! what comes back is read through a [`Readback`] that may be awaited later, while further steps run.

pub mod bisect;
mod cpu;
mod gpu;
mod profile;

pub use cpu::CpuExecutor;
pub use gpu::{GpuExecutor, GpuOptions, MatrixProof, adapters, int8_module, open_all};
pub use profile::{DispatchTime, ProfileDetail, RunTimes};

use crate::plan::{BufferDesc, BufferId, Features, GemmUnit, Plan, WIDE_MEMORY, WIDE_WORKGROUP};
use plateau_shaders::Matrices;
use std::ops::Range;
use std::str::FromStr;

/// Which device to use: `--device`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best adapter: discrete, then integrated, then a software driver; without any, the twins.
    #[default]
    Auto,
    /// The CPU twins.
    Twin,
    /// The index that [`adapters`] gives.
    Index(usize),
    /// Part of an adapter's name, in any case.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "twin" | "cpu" => Self::Twin,
            other => other
                .parse()
                .map_or_else(|_| Self::Name(s.to_owned()), Self::Index),
        })
    }
}

/// Which kernels multiply integer matrices with many rows: `--kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KernelChoice {
    /// The fastest in a trial when the device is opened, of those that its adapter reports and that pass the self-test. A software driver
    /// runs dot products of bytes.
    #[default]
    Auto,
    /// Dot products of four bytes, which run everywhere.
    Dot4,
    /// Products of f32, which run everywhere: for where a dot product of bytes is many instructions.
    F32,
    /// Cooperative matrices of f16, in WGSL.
    Coop,
    /// Cooperative matrices of INT8, in SPIR-V.
    CoopInt8,
}

impl KernelChoice {
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Dot4,
        Self::F32,
        Self::Coop,
        Self::CoopInt8,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dot4 => "dot4",
            Self::F32 => "f32",
            Self::Coop => "coop",
            Self::CoopInt8 => "coop-int8",
        }
    }

    /// Whether the twins cannot do as it says.
    const fn needs_gpu(self) -> bool {
        matches!(self, Self::F32 | Self::Coop | Self::CoopInt8)
    }
}

impl FromStr for KernelChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == s);
        found.ok_or_else(|| "expected auto, dot4, f32, coop or coop-int8".to_owned())
    }
}

/// What attention runs on: `--attention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttentionChoice {
    /// The portable kernels.
    #[default]
    Portable,
    /// Cooperative matrices of f16 for prefill and decode, over a KV cache in f16; queries and weights are rounded to halves.
    Coop,
}

impl AttentionChoice {
    pub const ALL: [Self; 2] = [Self::Portable, Self::Coop];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Coop => "coop",
        }
    }
}

impl FromStr for AttentionChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == s);
        found.ok_or_else(|| "expected portable or coop".to_owned())
    }
}

/// Which kernels are chosen on a device that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KernelChoices {
    pub linears: KernelChoice,
    pub attention: AttentionChoice,
}

impl KernelChoices {
    /// A choice that the twins cannot make, by its name.
    const fn needs_gpu(self) -> Option<&'static str> {
        if self.linears.needs_gpu() {
            return Some(self.linears.name());
        }
        match self.attention {
            AttentionChoice::Portable => None,
            AttentionChoice::Coop => Some("attention on coop"),
        }
    }
}

/// One GPU as a user sees it.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    pub index: usize,
    pub name: String,
    /// `vulkan`, `metal`, `dx12`
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software`, `other`
    pub kind: &'static str,
    pub driver: String,
    /// Device memory in bytes, where the backend tells.
    pub memory: Option<u64>,
    /// Features that matter here, in a fixed order.
    pub features: Vec<(&'static str, bool)>,
    /// Limits that matter here, in a fixed order.
    pub limits: Vec<(&'static str, u64)>,
    /// Cooperative matrices that the kernels have a use for, and why one is not used: it is not reported, it was slower in the trial, or the
    /// self-test failed. Empty before the trial.
    pub matrices: Vec<(Matrices, Result<(), String>)>,
    /// What integer GEMMs took in a trial, in µs, the fastest first. Empty where there was none.
    pub gemms: Vec<(GemmUnit, f64)>,
    /// Why it cannot be used, if so: a limit under what the kernels need, say.
    pub unusable: Option<String>,
}

/// The kind of an adapter that is a driver which computes on the CPU.
pub const SOFTWARE: &str = "software";
/// The kind of an adapter with memory of its own.
pub const DISCRETE: &str = "discrete";
/// The kind of an adapter that shares the processor's memory.
pub const INTEGRATED: &str = "integrated";

impl AdapterInfo {
    /// The fastest of the trial that did not fail its self-test.
    fn chosen_gemms(&self) -> GemmUnit {
        let is_right = |unit: &GemmUnit| match unit.matrices() {
            None => true,
            Some(matrices) => self.matrices.contains(&(matrices, Ok(()))),
        };
        let mut units = self.gemms.iter().map(|(unit, _)| *unit);
        units.find(is_right).unwrap_or_default()
    }

    /// What plans for it may use.
    pub fn plan_features(&self) -> Features {
        let limit = |name: &str| self.limits.iter().find(|(known, _)| *known == name);
        let has =
            |name: &str, least: u32| limit(name).is_some_and(|(_, most)| *most >= u64::from(least));
        // No adapter says how many registers it has. Intel's discrete GPUs are the only ones with subgroups so small.
        let small_subgroups = limit("subgroup-min").is_some_and(|(_, lanes)| *lanes < 32);
        let few_registers = self.kind == INTEGRATED || self.kind != SOFTWARE && small_subgroups;
        Features {
            subgroups: self.features.contains(&("subgroups", true)),
            f16: self.features.contains(&("shader-f16", true)),
            fused: self.kind != SOFTWARE,
            wide_workgroups: !few_registers
                && has("workgroup-invocations", WIDE_WORKGROUP)
                && has("workgroup-memory-bytes", WIDE_MEMORY),
            few_registers,
            gemms: self.chosen_gemms(),
            matrix_attention: false,
        }
    }
}

/// An error of a device: which one, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("no GPU adapter was found")]
    NoAdapter,
    #[error("no device '{wanted}'; there are: {known}")]
    Unknown { wanted: String, known: String },
    #[error("device '{wanted}' matches several: {matches}")]
    Ambiguous { wanted: String, matches: String },
    #[error("{name}: cannot be used: {reason}")]
    Refused { name: String, reason: String },
    #[error("{name}: kernels '{wanted}' cannot be used: {reason}")]
    Kernels {
        name: String,
        wanted: &'static str,
        reason: String,
    },
    #[error("{label}: {bytes} bytes do not fit one buffer of {name}, which holds {limit} at most")]
    TooLarge {
        name: String,
        label: String,
        bytes: u64,
        limit: u64,
    },
    #[error("{name}: out of device memory at '{label}' ({bytes} bytes)")]
    OutOfMemory {
        name: String,
        label: String,
        bytes: u64,
    },
    #[error("{name}: the device was lost: {reason}")]
    Lost { name: String, reason: String },
    #[error("{name}: the driver failed: {reason}")]
    Driver { name: String, reason: String },
}

/// Runs plans: the GPU or the twins.
pub enum Executor {
    Cpu(CpuExecutor),
    Gpu(Box<GpuExecutor>),
}

/// A plan that an executor has prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanId(usize);

/// Words on their way back from the device.
pub enum Readback {
    Ready(Vec<u32>),
    Gpu(gpu::PendingRead),
}

impl Executor {
    /// The CPU twins.
    pub fn twin() -> Self {
        Self::Cpu(CpuExecutor::default())
    }

    /// For messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => cpu::NAME,
            Self::Gpu(gpu) => gpu.name(),
        }
    }

    pub fn adapter(&self) -> Option<&AdapterInfo> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => Some(gpu.adapter()),
        }
    }

    /// Memory that buffers can have in all, in bytes, where the device or the system tells: that of the GPU, or for the twins
    /// what the host has left.
    pub fn available_memory(&self) -> Option<u64> {
        match self {
            Self::Cpu(_) => cpu::available_memory(),
            Self::Gpu(gpu) => gpu.adapter().memory,
        }
    }

    /// What plans for it may use. The twins are asked for the portable kernels.
    pub fn features(&self) -> Features {
        match self {
            Self::Cpu(_) => Features::default(),
            Self::Gpu(gpu) => gpu.features(),
        }
    }

    /// The largest buffer that can be bound, in bytes.
    pub fn max_buffer_bytes(&self) -> u64 {
        match self {
            Self::Cpu(_) => u64::MAX,
            Self::Gpu(gpu) => gpu.max_buffer_bytes(),
        }
    }

    /// Makes the next shared buffer, filled with zeros. To be called in the order of the [`crate::plan::SharedBuffers`].
    pub async fn allocate(&mut self, desc: &BufferDesc) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(cpu) => cpu.allocate(desc),
            Self::Gpu(gpu) => gpu.allocate(desc).await,
        }
    }

    /// Frees the shared buffers from number `len` on. No prepared plan may use them any more.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Cpu(cpu) => cpu.truncate(len),
            Self::Gpu(gpu) => gpu.truncate(len),
        }
    }

    /// Gets a plan ready: scratch memory, and on a GPU pipelines and bind groups.
    pub async fn prepare(&mut self, plan: Plan) -> Result<PlanId, DeviceError> {
        Ok(PlanId(match self {
            Self::Cpu(cpu) => cpu.prepare(plan)?,
            Self::Gpu(gpu) => gpu.prepare(plan).await?,
        }))
    }

    /// Compiles the pipelines of a plan that may be prepared later, where there are any.
    pub async fn compile(&mut self, plan: &Plan) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.compile(plan).await,
        }
    }

    /// Frees the scratch memory of a plan.
    pub fn release(&mut self, plan: PlanId) {
        match self {
            Self::Cpu(cpu) => cpu.release(plan.0),
            Self::Gpu(gpu) => gpu.release(plan.0),
        }
    }

    /// Writes words of a shared buffer from word `offset`, before whatever is submitted next.
    pub fn write(&mut self, id: BufferId, offset: u64, words: &[u32]) -> Result<(), DeviceError> {
        self.write_in(None, id, offset, words)
    }

    /// As [`Executor::write`], for scratch buffers of `plan` too.
    pub fn write_in(
        &mut self,
        plan: Option<PlanId>,
        id: BufferId,
        offset: u64,
        words: &[u32],
    ) -> Result<(), DeviceError> {
        let plan = plan.map(|plan| plan.0);
        match self {
            Self::Cpu(cpu) => {
                cpu.words_mut(plan, id)[offset as usize..][..words.len()].copy_from_slice(words);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.write(plan, id, offset, words),
        }
    }

    /// Submits a whole plan, and does not wait for it.
    pub fn run(&mut self, plan: PlanId) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(cpu) => {
                let all = 0..cpu.len(plan.0);
                cpu.run(plan.0, all);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.run(plan.0, None, 1, None).map(drop),
        }
    }

    /// Submits some dispatches of a plan.
    pub fn run_range(&mut self, plan: PlanId, dispatches: Range<usize>) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(cpu) => {
                cpu.run(plan.0, dispatches);
                Ok(())
            }
            Self::Gpu(gpu) => gpu.run(plan.0, Some(dispatches), 1, None).map(drop),
        }
    }

    /// Submits a whole plan, `times` over, and, in the same submission, the copy of some words to the host.
    pub fn run_and_read(
        &mut self,
        plan: PlanId,
        times: usize,
        id: BufferId,
        words: Range<u64>,
    ) -> Result<Readback, DeviceError> {
        match self {
            Self::Cpu(cpu) => {
                for _ in 0..times {
                    cpu.run(plan.0, 0..cpu.len(plan.0));
                }
                let range = words.start as usize..words.end as usize;
                Ok(Readback::Ready(
                    cpu.words_mut(Some(plan.0), id)[range].to_vec(),
                ))
            }
            Self::Gpu(gpu) => {
                let pending = gpu.run(plan.0, None, times, Some((id, words)))?;
                Ok(Readback::Gpu(pending.expect("a range was asked for")))
            }
        }
    }

    /// Reads words of a shared buffer, or of a scratch buffer of `plan`, after everything submitted so far.
    pub async fn read(
        &mut self,
        plan: Option<PlanId>,
        id: BufferId,
        words: Range<u64>,
    ) -> Result<Vec<u32>, DeviceError> {
        let plan = plan.map(|plan| plan.0);
        match self {
            Self::Cpu(cpu) => {
                Ok(cpu.words_mut(plan, id)[words.start as usize..words.end as usize].to_vec())
            }
            Self::Gpu(gpu) => {
                let pending = gpu.read(plan, id, words)?;
                gpu.wait(pending).await
            }
        }
    }

    /// Waits for words on their way.
    pub async fn wait(&mut self, readback: Readback) -> Result<Vec<u32>, DeviceError> {
        match (self, readback) {
            (_, Readback::Ready(words)) => Ok(words),
            (Self::Gpu(gpu), Readback::Gpu(pending)) => gpu.wait(pending).await,
            (Self::Cpu(_), Readback::Gpu(_)) => unreachable!("the twins answer at once"),
        }
    }

    /// From now on notes when what runs ran, until [`Executor::take_profile`]; `false` where the device has no timestamps. The
    /// twins' times are those of the host.
    pub fn start_profile(&mut self, detail: ProfileDetail) -> bool {
        match self {
            Self::Cpu(cpu) => {
                cpu.start_profile(detail);
                true
            }
            Self::Gpu(gpu) => gpu.start_profile(detail),
        }
    }

    /// Ends what [`Executor::start_profile`] began: each run since then, in its order, after waiting for them.
    pub async fn take_profile(&mut self) -> Result<Vec<RunTimes>, DeviceError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.take_profile()),
            Self::Gpu(gpu) => gpu.take_profile().await,
        }
    }

    /// Waits until everything submitted is done.
    pub async fn finish(&mut self) -> Result<(), DeviceError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.finish().await,
        }
    }
}

/// An opened device, and one line for the user that says which it is and why.
pub struct Opened {
    pub executor: Executor,
    pub notice: String,
}

/// Opens a device.
///
/// [`DeviceChoice::Auto`] without any usable adapter gives the twins, and a notice that says so and how to get a driver.
///
/// # Errors
/// [`DeviceError::Unknown`] and [`DeviceError::Ambiguous`] list what there is; [`DeviceError::Refused`] says what the
/// adapter lacks.
pub async fn open(choice: &DeviceChoice) -> Result<Opened, DeviceError> {
    open_with(choice, KernelChoices::default()).await
}

/// As [`open`], with a choice of kernels; the twins have one for each operation, so they take [`KernelChoice::Auto`] and
/// [`KernelChoice::Dot4`] alone.
///
/// # Errors
/// Also [`DeviceError::Kernels`], which says what the device lacks for them.
pub async fn open_with(
    choice: &DeviceChoice,
    kernels: KernelChoices,
) -> Result<Opened, DeviceError> {
    if *choice == DeviceChoice::Twin {
        if let Some(wanted) = kernels.needs_gpu() {
            return Err(DeviceError::Kernels {
                name: cpu::NAME.to_owned(),
                wanted,
                reason: "the twins have one kernel for each operation".to_owned(),
            });
        }
        return Ok(Opened {
            executor: Executor::twin(),
            notice: "device: CPU twins (asked for; slow)".to_owned(),
        });
    }
    match gpu::open(choice, kernels).await {
        Ok((executor, reason)) => {
            let adapter = executor.adapter();
            let notice = format!(
                "device: {} ({}, {}, {}): {reason}",
                adapter.name, adapter.backend, adapter.kind, adapter.driver
            );
            Ok(Opened {
                executor: Executor::Gpu(Box::new(executor)),
                notice,
            })
        }
        Err(DeviceError::NoAdapter)
            if *choice == DeviceChoice::Auto && kernels.needs_gpu().is_none() =>
        {
            Ok(Opened {
                executor: Executor::twin(),
                notice: format!(
                    "device: CPU twins, which are slow: no usable GPU adapter was found. {DRIVER_HINT}"
                ),
            })
        }
        Err(error) => Err(error),
    }
}

/// How to get a driver on this system.
pub const DRIVER_HINT: &str = if cfg!(target_os = "linux") {
    "Install your GPU's Vulkan driver, or a software one: 'apt install mesa-vulkan-drivers' on Debian and Ubuntu, \
     'dnf install mesa-vulkan-drivers' on Fedora, 'pacman -S vulkan-swrast' on Arch"
} else if cfg!(target_os = "windows") {
    "Install your GPU maker's current driver; it brings DX12 and Vulkan"
} else {
    "A Mac needs macOS 11 or later for Metal"
};
