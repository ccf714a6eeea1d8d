//! Runs plans on a GPU through wgpu. The only module that names it.

mod adapter;
mod choice;
mod matrices;
mod pipeline;
mod profile;
mod spirv;

pub(super) use adapter::open;
pub use adapter::{adapters, open_all};
pub use spirv::module as int8_module;

use super::profile::{ProfileDetail, RunTimes};
use super::{AdapterInfo, AttentionChoice, DeviceError, KernelChoice};
use crate::plan::{BufferDesc, BufferId, Features, GemmUnit, Grid, Plan, WIDE_WORKGROUP};
use pipeline::Pipelines;
use profile::Profiler;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use wgpu::BufferUsages;

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuOptions {
    /// WebGPU's default limits and no optional feature: what the portable kernels have to live with everywhere.
    pub portable: bool,
    /// Which GEMMs of integers, where `portable` is not set.
    pub kernels: KernelChoice,
    /// What attention runs on, where `portable` is not set.
    pub attention: AttentionChoice,
    /// Fused dispatches on a software driver too, which has no gain of them. For tests.
    pub always_fuse: bool,
    /// The trial of integer GEMMs on a software driver too, where it takes long and says little. For tests.
    pub always_try: bool,
    /// As for an adapter with few registers. For tests.
    pub few_registers: bool,
    pub matrices: MatrixProof,
}

impl GpuOptions {
    pub const PORTABLE: Self = Self {
        portable: true,
        kernels: KernelChoice::Dot4,
        attention: AttentionChoice::Portable,
        always_fuse: false,
        always_try: false,
        few_registers: false,
        matrices: MatrixProof::Whole,
    };
}

/// What must be known of an adapter's cooperative matrices before kernels use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MatrixProof {
    /// The size is listed, and the self-test passed.
    #[default]
    Whole,
    /// The size is listed. For compilers of hardware that is not there.
    Listed,
    /// The self-test passed. For software drivers that compute sizes which they do not list; others crash.
    Tested,
}

/// Uploads wait in host memory until a submission; past this many bytes one is made.
const UPLOAD_FLUSH_BYTES: u64 = 64 << 20;

/// What went wrong outside any error scope.
#[derive(Default)]
struct Faults {
    lost: Option<String>,
    error: Option<String>,
}

struct PreparedDispatch {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    grid: PreparedGrid,
}

enum PreparedGrid {
    Fixed([u32; 3]),
    Indirect(wgpu::Buffer, u64),
}

type Names = Arc<[(&'static str, String)]>;

struct PreparedPlan {
    scratch: Vec<wgpu::Buffer>,
    dispatches: Vec<PreparedDispatch>,
    /// Kernel and label of each dispatch; a profile may outlive the plan.
    names: Names,
}

/// A GPU, its buffers and its prepared plans.
pub struct GpuExecutor {
    info: AdapterInfo,
    /// What plans for it may use; matrices are tested when the device is opened.
    features: Features,
    device: wgpu::Device,
    queue: wgpu::Queue,
    faults: Arc<Mutex<Faults>>,
    shared: Vec<wgpu::Buffer>,
    plans: Vec<Option<PreparedPlan>>,
    pipelines: Pipelines,
    /// Mappable buffers that are not in use.
    staging: Vec<wgpu::Buffer>,
    pending_upload_bytes: u64,
    submissions: u64,
    profiler: Option<Profiler>,
}

/// Words on their way back.
pub struct PendingRead {
    staging: wgpu::Buffer,
    bytes: u64,
    submission: wgpu::SubmissionIndex,
    mapped: Mapped,
}

/// Becomes ready when a buffer is mapped.
#[derive(Clone, Default)]
struct Mapped(Arc<Mutex<MappedState>>);

#[derive(Default)]
struct MappedState {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

impl Future for Mapped {
    type Output = Result<(), wgpu::BufferAsyncError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl GpuExecutor {
    fn new(device: wgpu::Device, queue: wgpu::Queue, info: AdapterInfo) -> Self {
        let faults = Arc::new(Mutex::new(Faults::default()));
        let on_lost = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            let mut faults = on_lost.lock().unwrap_or_else(PoisonError::into_inner);
            faults.lost.get_or_insert(format!("{reason:?}: {message}"));
        });
        let on_error = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut faults = on_error.lock().unwrap_or_else(PoisonError::into_inner);
            faults.error.get_or_insert(error.to_string());
        }));
        Self {
            features: Features {
                subgroups: device.features().contains(wgpu::Features::SUBGROUP),
                f16: device.features().contains(wgpu::Features::SHADER_F16),
                fused: info.plan_features().fused,
                wide_workgroups: !info.plan_features().few_registers
                    && device.limits().max_compute_invocations_per_workgroup >= WIDE_WORKGROUP,
                few_registers: info.plan_features().few_registers,
                gemms: GemmUnit::default(),
                matrix_attention: false,
            },
            info,
            device,
            queue,
            faults,
            shared: Vec::new(),
            plans: Vec::new(),
            pipelines: Pipelines::default(),
            staging: Vec::new(),
            pending_upload_bytes: 0,
            submissions: 0,
            profiler: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    pub fn adapter(&self) -> &AdapterInfo {
        &self.info
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub fn max_buffer_bytes(&self) -> u64 {
        let limits = self.device.limits();
        limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
    }

    /// Submissions of dispatches so far.
    pub fn submissions(&self) -> u64 {
        self.submissions
    }

    /// Drops the device under the executor's feet, as a crashed driver would. For tests of what happens then.
    #[doc(hidden)]
    pub fn lose_device(&self) {
        self.device.destroy();
    }

    fn fault(&self) -> Result<(), DeviceError> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match (&faults.lost, &faults.error) {
            (Some(reason), _) => Err(DeviceError::Lost {
                name: self.info.name.clone(),
                reason: reason.clone(),
            }),
            (None, Some(reason)) => Err(DeviceError::Driver {
                name: self.info.name.clone(),
                reason: reason.clone(),
            }),
            (None, None) => Ok(()),
        }
    }

    /// A loss is the cause of whatever else failed. It is reported by a poll.
    fn driver_error(&self, reason: impl ToString) -> DeviceError {
        // The result does not matter: what it tells is in `faults`.
        let _ = self.device.poll(wgpu::PollType::Poll);
        self.fault().err().unwrap_or_else(|| DeviceError::Driver {
            name: self.info.name.clone(),
            reason: reason.to_string(),
        })
    }

    async fn create_buffer(
        &self,
        desc: &BufferDesc,
        usage: BufferUsages,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let bytes = desc.bytes();
        let limit = self.max_buffer_bytes();
        if bytes > limit {
            return Err(DeviceError::TooLarge {
                name: self.info.name.clone(),
                label: desc.label.clone(),
                bytes,
                limit,
            });
        }
        let out_of_memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(&desc.label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        let validation = validation.pop();
        let out_of_memory = out_of_memory.pop();
        if let Some(error) = validation.await {
            return Err(self.driver_error(error));
        }
        if out_of_memory.await.is_some() {
            return Err(DeviceError::OutOfMemory {
                name: self.info.name.clone(),
                label: desc.label.clone(),
                bytes,
            });
        }
        self.fault()?;
        Ok(buffer)
    }

    pub(super) async fn allocate(&mut self, desc: &BufferDesc) -> Result<(), DeviceError> {
        let buffer = self.create_buffer(desc, STORAGE).await?;
        self.shared.push(buffer);
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.shared.truncate(len);
    }

    pub(super) async fn compile(&mut self, plan: &Plan) -> Result<(), DeviceError> {
        let compiled = self.pipelines.compile(&self.device, plan).await;
        compiled.map_err(|reason| self.driver_error(reason))
    }

    pub(super) async fn prepare(&mut self, plan: Plan) -> Result<usize, DeviceError> {
        self.compile(&plan).await?;
        let mut scratch = Vec::with_capacity(plan.scratch.len());
        for desc in &plan.scratch {
            scratch.push(self.create_buffer(desc, STORAGE).await?);
        }
        let params = self.params_buffer(&plan).await?;
        let mut prepared = PreparedPlan {
            scratch,
            dispatches: Vec::with_capacity(plan.dispatches.len()),
            names: Names::default(),
        };
        let alignment = u64::from(self.device.limits().min_uniform_buffer_offset_alignment);
        let mut offset = 0;
        for dispatch in &plan.dispatches {
            let (pipeline, layout) = self.pipelines.of(dispatch);
            let size = dispatch.params.len() as u64;
            let uniform = wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &params,
                    offset,
                    size: std::num::NonZeroU64::new(size),
                }),
            };
            offset += size.next_multiple_of(alignment);
            let storage =
                dispatch
                    .bindings
                    .iter()
                    .enumerate()
                    .map(|(i, id)| wgpu::BindGroupEntry {
                        binding: i as u32 + 1,
                        resource: self.buffer(Some(&prepared), *id).as_entire_binding(),
                    });
            let entries: Vec<_> = std::iter::once(uniform).chain(storage).collect();
            let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&dispatch.label),
                layout,
                entries: &entries,
            });
            let grid = match dispatch.grid {
                Grid::Fixed(grid) => PreparedGrid::Fixed(grid),
                Grid::Indirect { buffer, offset } => {
                    PreparedGrid::Indirect(self.buffer(Some(&prepared), buffer).clone(), 4 * offset)
                }
            };
            let pipeline = pipeline.clone();
            prepared.dispatches.push(PreparedDispatch {
                pipeline,
                bind_group,
                grid,
            });
        }
        let names = plan.dispatches.into_iter();
        prepared.names = names.map(|d| (d.kernel.name, d.label)).collect();
        self.fault()?;
        self.plans.push(Some(prepared));
        Ok(self.plans.len() - 1)
    }

    /// One uniform buffer with the parameters of every dispatch.
    async fn params_buffer(&self, plan: &Plan) -> Result<wgpu::Buffer, DeviceError> {
        let alignment = self.device.limits().min_uniform_buffer_offset_alignment as usize;
        let mut bytes = Vec::new();
        for dispatch in &plan.dispatches {
            bytes.extend_from_slice(&dispatch.params);
            bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        }
        let desc = BufferDesc {
            label: "params".to_owned(),
            words: (bytes.len() as u64).div_ceil(4).max(1),
        };
        let buffer = self
            .create_buffer(&desc, BufferUsages::UNIFORM | BufferUsages::COPY_DST)
            .await?;
        self.queue.write_buffer(&buffer, 0, &bytes);
        Ok(buffer)
    }

    pub(super) fn release(&mut self, plan: usize) {
        self.plans[plan] = None;
    }

    fn buffer<'a>(&'a self, plan: Option<&'a PreparedPlan>, id: BufferId) -> &'a wgpu::Buffer {
        match id {
            BufferId::Shared(i) => &self.shared[i as usize],
            BufferId::Scratch(i) => {
                &plan
                    .expect("a scratch buffer is named together with its plan")
                    .scratch[i as usize]
            }
        }
    }

    fn plan(&self, plan: Option<usize>) -> Option<&PreparedPlan> {
        plan.map(|plan| {
            self.plans[plan]
                .as_ref()
                .expect("the plan was not released")
        })
    }

    pub(super) fn write(
        &mut self,
        plan: Option<usize>,
        id: BufferId,
        offset: u64,
        words: &[u32],
    ) -> Result<(), DeviceError> {
        let buffer = self.buffer(self.plan(plan), id);
        self.queue
            .write_buffer(buffer, 4 * offset, bytemuck::cast_slice(words));
        self.pending_upload_bytes += 4 * words.len() as u64;
        if self.pending_upload_bytes > UPLOAD_FLUSH_BYTES {
            self.pending_upload_bytes = 0;
            let submission = self.queue.submit([]);
            self.poll(submission)?;
        }
        self.fault()
    }

    /// One submission: the dispatches in one pass, `times` over, then the copy that was asked for. With a profile each time is a
    /// submission.
    pub(super) fn run(
        &mut self,
        plan: usize,
        dispatches: Option<Range<usize>>,
        mut times: usize,
        read: Option<(BufferId, Range<u64>)>,
    ) -> Result<Option<PendingRead>, DeviceError> {
        self.fault()?;
        while self.profiler.is_some() && times > 1 {
            self.run(plan, dispatches.clone(), 1, None)?;
            times -= 1;
        }
        let staging = read
            .as_ref()
            .map(|(_, words)| self.take_staging(4 * (words.end - words.start)));
        let prepared = self.plans[plan]
            .as_ref()
            .expect("the plan was not released");
        let range = dispatches.unwrap_or(0..prepared.dispatches.len());
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let dispatches = &prepared.dispatches[range.clone()];
        let names = Arc::clone(&prepared.names);
        let profiler = self.profiler.as_ref();
        let recording = profiler
            .filter(|_| !dispatches.is_empty())
            .map(|profiler| profiler.record(&self.device, dispatches.len()));
        let stamps = match &recording {
            Some(recording) => {
                recording.encode(&mut encoder, dispatches);
                Some(recording.resolve(&self.device, &mut encoder))
            }
            None => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for _ in 0..times {
                    for dispatch in dispatches {
                        dispatch.encode(&mut pass);
                    }
                }
                None
            }
        };
        if let (Some((id, words)), Some(staging)) = (&read, &staging) {
            let bytes = 4 * (words.end - words.start);
            encoder.copy_buffer_to_buffer(
                self.buffer(Some(prepared), *id),
                4 * words.start,
                staging,
                0,
                bytes,
            );
        }
        let submission = self.queue.submit([encoder.finish()]);
        self.submissions += 1;
        self.pending_upload_bytes = 0;
        if let (Some(profiler), Some(stamps)) = (&mut self.profiler, stamps) {
            profiler.submitted(names, range, stamps, submission.clone());
        }
        Ok(read
            .zip(staging)
            .map(|((_, words), staging)| map(staging, 4 * (words.end - words.start), submission)))
    }

    /// From now on notes when what runs ran; `false` where the device has no timestamps.
    pub(super) fn start_profile(&mut self, detail: ProfileDetail) -> bool {
        self.profiler = Profiler::new(&self.device, &self.queue, detail);
        self.profiler.is_some()
    }

    pub(super) async fn take_profile(&mut self) -> Result<Vec<RunTimes>, DeviceError> {
        let mut runs = Vec::new();
        let mut zero = None;
        let pending = self.profiler.take().map(|profiler| profiler.pending);
        for run in pending.unwrap_or_default() {
            let words = self.wait(run.words).await?;
            let zero = *zero.get_or_insert(profile::ticks(&words).next().unwrap_or(0));
            runs.push(run.stamped.times(&words, zero));
        }
        Ok(runs)
    }

    pub(super) fn read(
        &mut self,
        plan: Option<usize>,
        id: BufferId,
        words: Range<u64>,
    ) -> Result<PendingRead, DeviceError> {
        self.fault()?;
        let bytes = 4 * (words.end - words.start);
        let staging = self.take_staging(bytes);
        let mut encoder = self
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let buffer = self.buffer(self.plan(plan), id);
        encoder.copy_buffer_to_buffer(buffer, 4 * words.start, &staging, 0, bytes);
        let submission = self.queue.submit([encoder.finish()]);
        Ok(map(staging, bytes, submission))
    }

    fn take_staging(&mut self, bytes: u64) -> wgpu::Buffer {
        match self
            .staging
            .iter()
            .position(|buffer| buffer.size() == bytes)
        {
            Some(i) => self.staging.swap_remove(i),
            None => self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("staging"),
                size: bytes,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        }
    }

    pub(super) async fn wait(&mut self, pending: PendingRead) -> Result<Vec<u32>, DeviceError> {
        /// Staging buffers kept for the next readback; larger ones are freed.
        const KEEP_BYTES: u64 = 1 << 20;
        self.poll(pending.submission)?;
        pending
            .mapped
            .await
            .map_err(|error| self.driver_error(error))?;
        let words = {
            let view = pending
                .staging
                .get_mapped_range(0..pending.bytes)
                .map_err(|error| self.driver_error(error))?;
            bytemuck::pod_collect_to_vec(&view)
        };
        pending.staging.unmap();
        if pending.bytes <= KEEP_BYTES {
            self.staging.push(pending.staging);
        }
        self.fault()?;
        Ok(words)
    }

    pub(super) async fn finish(&mut self) -> Result<(), DeviceError> {
        self.fault()?;
        let submission = self.queue.submit([]);
        self.pending_upload_bytes = 0;
        self.poll(submission)?;
        self.fault()
    }

    /// Blocks until the submission is done. On the web this does nothing: the browser's loop resolves the mapping.
    fn poll(&self, submission: wgpu::SubmissionIndex) -> Result<(), DeviceError> {
        let wait = wgpu::PollType::Wait {
            submission_index: Some(submission),
            timeout: None,
        };
        self.device
            .poll(wait)
            .map(drop)
            .map_err(|error| self.driver_error(error))
    }
}

const STORAGE: BufferUsages = BufferUsages::STORAGE
    .union(BufferUsages::COPY_SRC)
    .union(BufferUsages::COPY_DST)
    .union(BufferUsages::INDIRECT);

fn map(staging: wgpu::Buffer, bytes: u64, submission: wgpu::SubmissionIndex) -> PendingRead {
    let mapped = Mapped::default();
    let state = mapped.clone();
    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
        let mut state = state.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.result = Some(result);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    });
    PendingRead {
        staging,
        bytes,
        submission,
        mapped,
    }
}
