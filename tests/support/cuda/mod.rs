//! The kernels once more, in CUDA C++: an independent implementation on the same NVIDIA GPU, compiled when it is asked for.
//!
//! `tests/cuda/*.cu` has a function for each kernel, under the kernel's name, with the same parameters and the same bindings. They are
//! written from the definitions, one thread for each output, sums of floats in double. The driver and NVRTC are looked for at run
//! time (in the loader's path, so `LD_LIBRARY_PATH` on Linux): nothing of CUDA is needed to build, and without them [`Cuda::open`] says
//! what is missing.

pub mod faults;
pub mod matmul;
pub mod models;
mod parity;
pub mod ruler;

pub use parity::{Agreed, Tally, check};

use crate::case::Case;
use crate::run::SENTINEL;
use bytemuck::{Pod, Zeroable};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr,
    DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use plateau_shaders::{Constant, KERNELS, Kernel};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sources, in an order in which each has what it uses before it.
pub const SOURCES: &[(&str, &str)] = &[
    ("call.cu", include_str!("../../cuda/call.cu")),
    ("numbers.cu", include_str!("../../cuda/numbers.cu")),
    ("embedding.cu", include_str!("../../cuda/embedding.cu")),
    ("rows.cu", include_str!("../../cuda/rows.cu")),
    (
        "flatten_quantize.cu",
        include_str!("../../cuda/flatten_quantize.cu"),
    ),
    ("activations.cu", include_str!("../../cuda/activations.cu")),
    ("norms.cu", include_str!("../../cuda/norms.cu")),
    (
        "quantize_dynamic.cu",
        include_str!("../../cuda/quantize_dynamic.cu"),
    ),
    ("gram.cu", include_str!("../../cuda/gram.cu")),
    (
        "float_linear.cu",
        include_str!("../../cuda/float_linear.cu"),
    ),
    (
        "integer_linear.cu",
        include_str!("../../cuda/integer_linear.cu"),
    ),
    ("norm_input.cu", include_str!("../../cuda/norm_input.cu")),
    ("kv_cache.cu", include_str!("../../cuda/kv_cache.cu")),
    ("attention.cu", include_str!("../../cuda/attention.cu")),
    ("sampling.cu", include_str!("../../cuda/sampling.cu")),
];

/// Why nothing runs on CUDA.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error("{what} was not found ({hint})")]
    Missing {
        what: &'static str,
        hint: &'static str,
    },
    #[error("CUDA: NVRTC refused the kernels:\n{log}")]
    Compile { log: String },
    #[error("CUDA: {doing}: {source}")]
    Driver {
        doing: &'static str,
        source: DriverError,
    },
    #[error("cuBLASLt: {doing}: {source}")]
    Library {
        doing: &'static str,
        source: cudarc::cublaslt::result::CublasError,
    },
    #[error("{kernel} has no function in tests/cuda/*.cu")]
    NoFunction { kernel: &'static str },
    #[error("{kernel}: {what}: found {found}, a call has room for {expected}")]
    Room {
        kernel: &'static str,
        what: &'static str,
        found: usize,
        expected: usize,
    },
}

/// Says what failed.
fn driver(doing: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |source| CudaError::Driver { doing, source }
}

const MOST_PARAMS: usize = 32;
const MOST_BUFFERS: usize = 8;

/// `Call` of call.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Call {
    params: [u32; MOST_PARAMS],
    buffers: [u64; MOST_BUFFERS],
    words: [u64; MOST_BUFFERS],
    group_size: u32,
    raw_accumulators: u32,
}

// SAFETY: a struct of integers with C's layout, without padding (it is Pod), which call.cu declares in the same order.
unsafe impl DeviceRepr for Call {}

impl Call {
    /// Without the addresses of its buffers.
    pub fn new(
        kernel: &'static Kernel,
        params: &[u8],
        constants: &[Constant],
        words: &[usize],
    ) -> Result<Self, CudaError> {
        let room = |what, found, expected| match found <= expected {
            true => Ok(()),
            false => Err(CudaError::Room {
                kernel: kernel.name,
                what,
                found,
                expected,
            }),
        };
        room("bytes of parameters", params.len(), 4 * MOST_PARAMS)?;
        room("bindings", words.len(), MOST_BUFFERS)?;
        // The other constants are about how a kernel computes, not about what.
        let constant = |name: &str| {
            let found = constants.iter().find(|(constant, _)| *constant == name);
            found.map_or(0, |(_, value)| *value)
        };
        let mut call = Self {
            group_size: constant("GROUP_SIZE"),
            raw_accumulators: constant("RAW_ACCUMULATORS"),
            ..Self::zeroed()
        };
        bytemuck::bytes_of_mut(&mut call.params)[..params.len()].copy_from_slice(params);
        for (to, &from) in call.words.iter_mut().zip(words) {
            *to = from as u64;
        }
        Ok(call)
    }
}

/// Words in the GPU's memory.
pub type Words = CudaSlice<u32>;

/// An NVIDIA GPU with the kernels.
pub struct Cuda {
    stream: Arc<CudaStream>,
    functions: BTreeMap<&'static str, CudaFunction>,
    name: String,
    compile_time: Duration,
}

impl Cuda {
    /// The first GPU of the driver.
    ///
    /// # Errors
    /// [`CudaError::Missing`] without the driver, a GPU or the compiler.
    pub fn open() -> Result<Self, CudaError> {
        // SAFETY: loads the library, which runs what it runs when it is loaded: NVIDIA's own.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(CudaError::Missing {
                what: "NVIDIA's driver",
                hint: "libcuda.so.1 or nvcuda.dll; it comes with the driver of an NVIDIA GPU",
            });
        }
        let no_gpu = CudaError::Missing {
            what: "an NVIDIA GPU",
            hint: "its driver is there, and lists none",
        };
        let context = match CudaContext::device_count() {
            Ok(1..) => CudaContext::new(0).map_err(driver("opening the GPU"))?,
            Ok(_) | Err(_) => return Err(no_gpu),
        };
        // SAFETY: as above.
        if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return Err(CudaError::Missing {
                what: "NVRTC, CUDA's run-time compiler",
                hint: "libnvrtc.so or nvrtc64_*.dll in the loader's path; it comes with the CUDA toolkit, or with the Python package nvidia-cuda-nvrtc",
            });
        }
        let started = Instant::now();
        let module = compile(&context)?;
        let functions = KERNELS.iter().filter_map(|kernel| {
            let function = module.load_function(kernel.name).ok()?;
            Some((kernel.name, function))
        });
        Ok(Self {
            functions: functions.collect(),
            name: context.name().map_err(driver("asking the GPU's name"))?,
            compile_time: started.elapsed(),
            stream: context.default_stream(),
        })
    }

    /// Of the GPU.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What NVRTC and the driver took for the kernels.
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    pub fn upload(&self, words: &[u32]) -> Result<Words, CudaError> {
        self.stream
            .clone_htod(words)
            .map_err(driver("copying to the GPU"))
    }

    pub fn download(&self, words: &Words) -> Result<Vec<u32>, CudaError> {
        self.stream
            .clone_dtoh(words)
            .map_err(driver("copying from the GPU"))
    }

    pub fn zeros(&self, words: usize) -> Result<Words, CudaError> {
        self.stream
            .alloc_zeros(words)
            .map_err(driver("taking the GPU's memory"))
    }

    /// Runs a dispatch over `buffers`, its bindings in their order, and does not wait for it.
    pub fn launch(
        &self,
        kernel: &'static Kernel,
        params: &[u8],
        constants: &[Constant],
        buffers: &[&Words],
    ) -> Result<(), CudaError> {
        let name = kernel.name;
        let function = self
            .functions
            .get(name)
            .ok_or(CudaError::NoFunction { kernel: name })?;
        let words: Vec<usize> = buffers.iter().map(|words| words.num_bytes() / 4).collect();
        let mut call = Call::new(kernel, params, constants, &words)?;
        for (to, words) in call.buffers.iter_mut().zip(buffers) {
            *to = words.device_ptr(&self.stream).0;
        }
        let config = LaunchConfig {
            grid_dim: (512, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the function takes one argument, a `Call`. What it writes are the dispatch's buffers, which live in the GPU's
        // memory, are used on this stream alone and outlive the launch: freeing them is ordered on the stream too.
        unsafe {
            self.stream
                .launch_builder(function)
                .arg(&call)
                .launch(config)
        }
        .map_err(driver("starting a kernel"))?;
        Ok(())
    }

    /// Runs `case`; gives the words of each output binding, in the order of [`Case::outputs`].
    pub fn run(&self, case: &Case) -> Result<Vec<Vec<u32>>, String> {
        let with_sentinel = |words: &Vec<u32>| self.upload(&[&words[..], &SENTINEL].concat());
        let run = || -> Result<Vec<Vec<u32>>, CudaError> {
            let buffers: Result<Vec<Words>, CudaError> =
                case.buffers.iter().map(with_sentinel).collect();
            let buffers = buffers?;
            let bindings: Vec<&Words> = buffers.iter().collect();
            self.launch(case.kernel, &case.params, &case.constants, &bindings)?;
            let outputs = case.outputs.iter();
            outputs
                .map(|(binding, _)| self.download(&buffers[binding - 1]))
                .collect()
        };
        let mut outputs = run().map_err(|error| error.to_string())?;
        for (words, (binding, _)) in outputs.iter_mut().zip(&case.outputs) {
            let len = words.len() - SENTINEL.len();
            if words[len..] != SENTINEL {
                return Err(format!(
                    "binding {binding}: CUDA wrote words past the end of the buffer"
                ));
            }
            words.truncate(len);
        }
        Ok(outputs)
    }
}

/// All sources as one.
pub fn source() -> String {
    SOURCES.iter().map(|(_, text)| *text).collect()
}

fn compile(context: &Arc<CudaContext>) -> Result<Arc<CudaModule>, CudaError> {
    let (major, minor) = context
        .compute_capability()
        .map_err(driver("asking what the GPU can do"))?;
    let options = CompileOptions {
        // What is not written fma is not fused.
        fmad: Some(false),
        name: Some("plateau.cu".to_owned()),
        options: vec![
            format!("--gpu-architecture=compute_{major}{minor}"),
            "--std=c++17".to_owned(),
        ],
        ..CompileOptions::default()
    };
    let compiled = compile_ptx_with_opts(source(), options).map_err(|error| {
        let log = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            CompileError::CreationError(_)
            | CompileError::GetLogError(_)
            | CompileError::GetPtxError(_)
            | CompileError::DestroyError(_) => error.to_string(),
        };
        CudaError::Compile { log }
    })?;
    context
        .load_module(compiled)
        .map_err(driver("loading the kernels"))
}
