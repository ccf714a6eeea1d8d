//! Products of matrices by NVIDIA's own library, cuBLASLt: what the INT8 linears' accumulators are compared with too, and the ruler of
//! their speed; and a copy in device memory.

use super::{Cuda, CudaError, Words, driver};
use crate::case::{Case, Check};
use crate::compare::compare;
use crate::timing::{Times, WARM_UP};
use cudarc::cublaslt::{result, sys};
use cudarc::driver::DevicePtr;
use cudarc::driver::sys::CUevent_flags;
use plateau_shaders::linear::integer;
use std::ffi::c_void;
use std::time::Instant;

/// Of the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// With sums in i32.
    Int8,
    /// With sums in f32, rounded to halves.
    F16,
}

impl Format {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int8 => "cuBLASLt INT8",
            Self::F16 => "cuBLASLt FP16",
        }
    }
}

/// What the matrices' sides are padded to, with zeros, so that the library has kernels for every shape.
const SIDE: usize = 16;
const WORKSPACE_WORDS: usize = 8 << 20;

/// The library, opened for one GPU.
pub struct Library<'a> {
    cuda: &'a Cuda,
    handle: sys::cublasLtHandle_t,
    workspace: Words,
}

fn library(doing: &'static str) -> impl FnOnce(result::CublasError) -> CudaError {
    move |source| CudaError::Library { doing, source }
}

impl<'a> Library<'a> {
    /// # Errors
    /// [`CudaError::Missing`] without the library.
    pub fn open(cuda: &'a Cuda) -> Result<Self, CudaError> {
        // SAFETY: loads the library, which runs what it runs when it is loaded: NVIDIA's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::Missing {
                what: "cuBLASLt, CUDA's library of matrix products",
                hint: "libcublasLt.so or cublasLt64_*.dll in the loader's path; it comes with the CUDA toolkit, or with the Python package nvidia-cublas",
            });
        }
        Ok(Self {
            handle: result::create_handle().map_err(library("opening it"))?,
            workspace: cuda.zeros(WORKSPACE_WORDS)?,
            cuda,
        })
    }

    /// Gets y [rows, out_features] = x [rows, in_features] * w [out_features, in_features] transposed ready; all sides are
    /// multiples of [`SIDE`].
    fn matmul(
        &self,
        format: Format,
        [rows, in_features, out_features]: [usize; 3],
    ) -> Result<Matmul<'_>, CudaError> {
        let (factor, compute, sum, y) = match format {
            Format::Int8 => (
                sys::cudaDataType::CUDA_R_8I,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32I,
                sys::cudaDataType::CUDA_R_32I,
                sys::cudaDataType::CUDA_R_32I,
            ),
            Format::F16 => (
                sys::cudaDataType::CUDA_R_16F,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType::CUDA_R_32F,
                sys::cudaDataType::CUDA_R_16F,
            ),
        };
        let preparing = || library("preparing a product");
        // The library's matrices go by columns: ours are their own transposes.
        let layout = |kind, height: usize, width: usize| {
            result::create_matrix_layout(kind, height as u64, width as u64, height as i64)
        };
        let mut matmul = Matmul {
            library: self,
            format,
            desc: result::create_matmul_desc(compute, sum).map_err(preparing())?,
            w: layout(factor, in_features, out_features).map_err(preparing())?,
            x: layout(factor, in_features, rows).map_err(preparing())?,
            y: layout(y, out_features, rows).map_err(preparing())?,
            algorithm: None,
        };
        let transposed: i32 = 1;
        let workspace_bytes = 4 * WORKSPACE_WORDS;
        // SAFETY: the descriptions were made above, and values are read before the calls return.
        unsafe {
            result::set_matmul_desc_attribute(
                matmul.desc,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of::<i32>(),
            )
            .map_err(preparing())?;
            let preference = result::create_matmul_pref().map_err(preparing())?;
            let found = result::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace_bytes).cast(),
                size_of::<usize>(),
            )
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    matmul.desc,
                    matmul.w,
                    matmul.x,
                    matmul.y,
                    matmul.y,
                    preference,
                )
            });
            result::destroy_matmul_pref(preference).map_err(preparing())?;
            matmul.algorithm = Some(found.map_err(preparing())?.algo);
        }
        Ok(matmul)
    }

    /// The accumulators [rows, out_features] of INT8 rows, in i32.
    fn accumulators(
        &self,
        [rows, in_features, out_features]: [usize; 3],
        x_q: &[u32],
        w: &[u32],
    ) -> Result<Vec<i32>, CudaError> {
        let padded = |words: &[u32], rows: usize| {
            let mut all = words[..rows * in_features / 4].to_vec();
            all.resize(rows.next_multiple_of(SIDE) * in_features / 4, 0);
            self.cuda.upload(&all)
        };
        let [padded_rows, padded_outs] = [rows, out_features].map(|n| n.next_multiple_of(SIDE));
        let y = self.cuda.zeros(padded_rows * padded_outs)?;
        let matmul = self.matmul(Format::Int8, [padded_rows, in_features, padded_outs])?;
        let (x_q, w) = (padded(x_q, rows)?, padded(w, out_features)?);
        matmul.run(&x_q, &w, &y)?;
        let y = self.cuda.download(&y)?;
        let of_rows = y.chunks_exact(padded_outs).take(rows);
        Ok(of_rows
            .flat_map(|row| row[..out_features].iter().map(|&word| word as i32))
            .collect())
    }

    /// Compares what `case` wrote, where that is the accumulators of an INT8 linear; whether it is.
    pub fn check(&self, case: &Case, found: &[Vec<u32>]) -> Result<bool, String> {
        let is_integer_linear = case.kernel.bindings == integer::BINDINGS
            && case.params.len() == size_of::<integer::Params>();
        if !is_integer_linear || !matches!(case.outputs[0].1, Check::Exact) {
            return Ok(false);
        }
        let params: integer::Params = bytemuck::pod_read_unaligned(&case.params);
        let [rows, in_words, outs] =
            [params.rows, params.in_words, params.out_features].map(|n| n as usize);
        if case.buffers[2].len() != outs * in_words {
            return Ok(false);
        }
        let sums = self.accumulators(
            [rows, 4 * in_words, outs],
            &case.buffers[0],
            &case.buffers[2],
        );
        let sums = sums.map_err(|error| error.to_string())?;
        // What stands beside them in a row of y is as it was.
        let mut expected = case.buffers[4].clone();
        for (row, sums) in sums.chunks_exact(outs).enumerate() {
            let first = row * params.out_stride as usize + params.first_out as usize;
            expected[first..][..outs].copy_from_slice(bytemuck::cast_slice(sums));
        }
        compare(&found[0], &expected, &Check::Exact)
            .map_err(|message| format!("{}: {message}", Format::Int8.name()))?;
        Ok(true)
    }

    /// How long a product takes; its weights lie in several copies that take turns, so that they come from memory and not from a cache.
    pub fn time(&self, format: Format, shape: [usize; 3]) -> Result<Times, CudaError> {
        /// More than a cache holds.
        const COLD_WORDS: usize = 64 << 20;
        const COPIES: usize = 64;
        let [rows, in_features, out_features] = shape;
        let [padded_rows, padded_outs] = [rows, out_features].map(|n| n.next_multiple_of(SIDE));
        let (per_word, y_words) = match format {
            Format::Int8 => (4, padded_rows * padded_outs),
            Format::F16 => (2, padded_rows * padded_outs / 2),
        };
        // Random bytes; small halves, so that no sum is infinite.
        let mut rng = crate::Rng::new(1);
        let mut random = |words: usize| -> Vec<u32> {
            let mask = match format {
                Format::Int8 => u32::MAX,
                Format::F16 => 0xb7ff_b7ff,
            };
            (0..words).map(|_| rng.next_u32() & mask).collect()
        };
        let w_words = padded_outs * in_features / per_word;
        let copies = COLD_WORDS.div_ceil(w_words).clamp(1, COPIES);
        let x = self
            .cuda
            .upload(&random(padded_rows * in_features / per_word))?;
        let weights = random(w_words);
        let weights: Result<Vec<Words>, CudaError> =
            (0..copies).map(|_| self.cuda.upload(&weights)).collect();
        let weights = weights?;
        let y = self.cuda.zeros(y_words)?;
        let matmul = self.matmul(format, [padded_rows, in_features, padded_outs])?;
        self.cuda
            .time(|turn| matmul.run(&x, &weights[turn % copies], &y))
    }
}

impl Drop for Library<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `open`, and products do not outlive their library. A failure at the end is of no matter.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A product that is ready to run.
struct Matmul<'a> {
    library: &'a Library<'a>,
    format: Format,
    desc: sys::cublasLtMatmulDesc_t,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

impl Matmul<'_> {
    /// Does not wait for it.
    fn run(&self, x: &Words, w: &Words, y: &Words) -> Result<(), CudaError> {
        let stream = &self.library.cuda.stream;
        let address = |words: &Words| words.device_ptr(stream).0 as *mut c_void;
        let (one, zero) = match self.format {
            Format::Int8 => (1u32, 0u32),
            Format::F16 => (1f32.to_bits(), 0f32.to_bits()),
        };
        let algorithm = self
            .algorithm
            .as_ref()
            .map_or(std::ptr::null(), |a| a as *const _);
        // SAFETY: the buffers have the layouts' sizes, live in the GPU's memory, and are freed in the stream's order. The factors of the
        // product and of y, 1 and 0, are read before the call returns.
        unsafe {
            result::matmul(
                self.library.handle,
                self.desc,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                address(w),
                self.w,
                address(x),
                self.x,
                address(y),
                self.y,
                address(y),
                self.y,
                algorithm,
                address(&self.library.workspace),
                4 * WORKSPACE_WORDS,
                stream.cu_stream().cast(),
            )
        }
        .map_err(library("starting a product"))
    }
}

impl Drop for Matmul<'_> {
    fn drop(&mut self) {
        // SAFETY: each was made by `Library::matmul`, and is not used again. A failure at the end is of no matter.
        unsafe {
            for layout in [self.w, self.x, self.y] {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.desc);
        }
    }
}

impl Cuda {
    /// How long a copy of so many words in device memory takes.
    pub fn time_copy(&self, words: usize) -> Result<Times, CudaError> {
        let (from, mut to) = (self.zeros(words)?, self.zeros(words)?);
        self.time(|_| {
            let copied = self.stream.memcpy_dtod(&from, &mut to);
            copied.map_err(driver("copying in the GPU's memory"))
        })
    }

    /// As [`crate::timing::Timer`] does: batches after a warm-up, `run(turn)` many times in each.
    fn time(
        &self,
        mut run: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<Times, CudaError> {
        const BATCHES: usize = 11;
        /// About what a batch takes, if not even one turn is longer.
        const BATCH_NS: f64 = 1e7;
        const MOST: f64 = 256.0;
        let mut batch = |count: usize| -> Result<f64, CudaError> {
            let mark = || {
                let event = self
                    .stream
                    .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
                event.map_err(driver("reading the time"))
            };
            let start = mark()?;
            (0..count).try_for_each(&mut run)?;
            let end = mark()?;
            let ms = start.elapsed_ms(&end).map_err(driver("reading the time"))?;
            Ok(1e6 * f64::from(ms))
        };
        let warm = Instant::now();
        while warm.elapsed() < WARM_UP {
            batch(8)?;
        }
        let one = batch(8)? / 8.0;
        let count = (BATCH_NS / one.max(1.0)).clamp(1.0, MOST) as usize;
        let batches: Result<Vec<f64>, CudaError> = (0..BATCHES)
            .map(|_| Ok(batch(count)? / count as f64))
            .collect();
        Ok(Times::of(batches?))
    }
}
