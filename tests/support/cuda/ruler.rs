//! The ruler of our kernels' speed: NVIDIA's own library on the shapes that they are timed on, and a copy.

use super::matmul::{Format, Library};
use super::{Cuda, CudaError};
use crate::cases::Large;
use crate::timing::Times;
use plateau_shaders::Kernel;
use plateau_shaders::linear::integer;
use std::collections::BTreeMap;

/// The kernel of [`crate::peaks::Peak::Copy`].
const COPY: &str = "peak_copy";

/// cuBLASLt's products of one shape at a time, and a copy.
pub struct Ruler<'a> {
    cuda: &'a Cuda,
    library: Library<'a>,
    copy_ns: Option<f64>,
    /// Of the present shape.
    products: BTreeMap<Format, f64>,
}

impl<'a> Ruler<'a> {
    /// # Errors
    /// [`CudaError::Missing`] without the library.
    pub fn open(cuda: &'a Cuda) -> Result<Self, CudaError> {
        Ok(Self {
            cuda,
            library: Library::open(cuda)?,
            copy_ns: None,
            products: BTreeMap::new(),
        })
    }

    /// Times a copy of so many words.
    pub fn time_copy(&mut self, words: usize) -> Result<Times, CudaError> {
        let times = self.cuda.time_copy(words)?;
        self.copy_ns = Some(times.median_ns());
        Ok(times)
    }

    /// Times the library's products of a shape, which is the present one from now on: of each format its times and the bytes
    /// that it moves at least.
    pub fn time_products(&mut self, large: Large) -> Result<Vec<(Format, Times, u64)>, CudaError> {
        let [rows, in_features, out_features] =
            [large.rows, large.in_features, large.out_features].map(|n| n as usize);
        self.products.clear();
        let mut all = Vec::new();
        for format in [Format::Int8, Format::F16] {
            let shape = [rows, in_features, out_features];
            let times = self.library.time(format, shape)?;
            self.products.insert(format, times.median_ns());
            let (factor_bytes, sum_bytes) = match format {
                Format::Int8 => (1, 4),
                Format::F16 => (2, 2),
            };
            let factors = (rows + out_features) * in_features;
            let bytes = factor_bytes * factors + sum_bytes * rows * out_features;
            all.push((format, times, bytes as u64));
        }
        Ok(all)
    }

    /// Before kernels of no such shape.
    pub fn forget_products(&mut self) {
        self.products.clear();
    }

    /// What CUDA takes for what `kernel` does now: INT8 for integers, FP16 for floats.
    pub fn ns(&self, kernel: &Kernel) -> Option<f64> {
        if kernel.name == COPY {
            return self.copy_ns;
        }
        let is_integer = kernel.params_bytes == size_of::<integer::Params>();
        let format = if is_integer {
            Format::Int8
        } else {
            Format::F16
        };
        self.products.get(&format).copied()
    }
}
