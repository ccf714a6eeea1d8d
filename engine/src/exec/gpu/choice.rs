//! Which integer GEMMs a device runs: all have the same bits, so the fastest that may be used, by a trial when it is opened.

use super::matrices::{Test, self_test};
use super::{GpuExecutor, GpuOptions, MatrixProof};
use crate::exec::{DeviceError, KernelChoice, SOFTWARE};
use crate::plan::{GemmUnit, Plan};
use plateau_shaders::linear::{
    gemm_i8, gemm_i8_coop8, gemm_i8_coop16, gemm_i8_coop16_int8, gemm_i8_f32,
};
use plateau_shaders::{Kernel, Matrices};
use std::time::Instant;

/// Rows, features and outputs of a trial: as many tiles as a large GPU has processors.
const SHAPE: [u32; 3] = [512, 1024, 4096];
/// Of a trial on a software driver.
const SMALL: [u32; 3] = [64, 256, 64];
/// Dispatches of a submission, so that what a submission costs does not hide them.
const TIMES: usize = 8;
const ROUNDS: usize = 3;
/// A first dispatch that takes longer needs no others beside it to be told from them.
const LONG_US: f64 = 5000.0;

/// Settles what the integer GEMMs of `executor` run on, and notes why matrices are not used. `reported`: what its adapter has of
/// cooperative matrices.
pub(super) async fn settle(
    executor: &mut GpuExecutor,
    reported: Vec<(Matrices, Result<(), String>)>,
    options: &GpuOptions,
) -> Result<(), DeviceError> {
    let (choice, proof) = (options.kernels, options.matrices);
    let is_software = executor.info.kind == SOFTWARE;
    let is_wanted = |matrices: Matrices| match choice {
        KernelChoice::Auto => !is_software,
        KernelChoice::Dot4 | KernelChoice::F32 => false,
        KernelChoice::Coop => matches!(matrices, Matrices::F16 | Matrices::F16By8),
        KernelChoice::CoopInt8 => matrices == Matrices::Int8,
    };
    let mut states: Vec<_> = reported
        .into_iter()
        .filter(|(matrices, _)| is_wanted(*matrices))
        .collect();
    for (matrices, state) in &mut states {
        if proof == MatrixProof::Tested || (proof == MatrixProof::Whole && state.is_ok()) {
            *state = self_test(executor, *matrices).await;
        }
    }
    let usable = states.iter().filter(|(_, state)| state.is_ok());
    let matrices: Vec<GemmUnit> = usable.map(|(m, _)| GemmUnit::Matrices(*m)).collect();
    let first = matrices.first().copied();
    executor.info.matrices = states;
    executor.features.gemms = match choice {
        KernelChoice::F32 => GemmUnit::F32,
        KernelChoice::Auto
            if proof == MatrixProof::Whole && (!is_software || options.always_try) =>
        {
            let units = [matrices, vec![GemmUnit::Dot4, GemmUnit::F32]].concat();
            executor.info.gemms =
                trial(executor, &units, if is_software { SMALL } else { SHAPE }).await?;
            executor.info.gemms.first().map_or(GemmUnit::Dot4, |g| g.0)
        }
        _ => first.unwrap_or_default(),
    };
    Ok(())
}

/// What each needs for a GEMM of `shape`, in µs, the fastest first.
async fn trial(
    executor: &mut GpuExecutor,
    units: &[GemmUnit],
    shape: [u32; 3],
) -> Result<Vec<(GemmUnit, f64)>, DeviceError> {
    let mut plans = Vec::new();
    for unit in units {
        let mut plan = Plan::default();
        let test = Test::new(&mut plan, kernel(*unit), None, shape, false);
        let prepared = executor.prepare(plan).await?;
        test.write(executor, prepared)?;
        plans.push(prepared);
    }
    let times = race(executor, &plans).await;
    for plan in plans {
        executor.release(plan);
    }
    let mut trial: Vec<_> = units.iter().copied().zip(times?).collect();
    trial.sort_by(|a, b| a.1.total_cmp(&b.1));
    Ok(trial)
}

/// The shortest time of each plan, in µs. They take turns, as a GPU's clock rises while it works.
async fn race(executor: &mut GpuExecutor, plans: &[usize]) -> Result<Vec<f64>, DeviceError> {
    let mut shortest = vec![f64::INFINITY; plans.len()];
    for round in 0..=ROUNDS {
        let times = if round == 0 { 1 } else { TIMES };
        for (plan, shortest) in plans.iter().zip(&mut shortest) {
            if round > 0 && *shortest > LONG_US {
                continue;
            }
            executor.finish().await?;
            let started = Instant::now();
            executor.run(*plan, None, times, None)?;
            executor.finish().await?;
            let us = started.elapsed().as_secs_f64() * 1e6 / times as f64;
            *shortest = shortest.min(us);
        }
    }
    Ok(shortest)
}

fn kernel(unit: GemmUnit) -> &'static Kernel {
    match unit {
        GemmUnit::Dot4 => &gemm_i8::KERNEL,
        GemmUnit::F32 => &gemm_i8_f32::KERNEL,
        GemmUnit::Matrices(Matrices::F16) => &gemm_i8_coop16::KERNEL,
        GemmUnit::Matrices(Matrices::F16By8) => &gemm_i8_coop8::KERNEL,
        GemmUnit::Matrices(Matrices::Int8) => &gemm_i8_coop16_int8::KERNEL,
    }
}
