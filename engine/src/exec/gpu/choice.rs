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
/// cooperative matrices. Those that are slower than what is chosen are not tested.
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
    let (mut usable, mut states) = (Vec::new(), Vec::new());
    for (matrices, state) in reported.into_iter().filter(|(m, _)| is_wanted(*m)) {
        match state {
            Err(reason) if proof != MatrixProof::Tested => states.push((matrices, Err(reason))),
            _ => usable.push(GemmUnit::Matrices(matrices)),
        }
    }
    let best_first = match choice {
        KernelChoice::F32 => vec![GemmUnit::F32],
        KernelChoice::Auto
            if proof == MatrixProof::Whole && (!is_software || options.always_try) =>
        {
            usable.extend([GemmUnit::Dot4, GemmUnit::F32]);
            trial(executor, &usable, &mut states).await?
        }
        _ => usable,
    };
    let mut chosen = GemmUnit::Dot4;
    for unit in best_first {
        let Some(matrices) = unit.matrices() else {
            chosen = unit;
            break;
        };
        let state = match proof {
            MatrixProof::Listed => Ok(()),
            MatrixProof::Whole | MatrixProof::Tested => self_test(executor, matrices).await,
        };
        let is_right = state.is_ok();
        states.push((matrices, state));
        if is_right {
            chosen = unit;
            break;
        }
    }
    executor.info.matrices = states;
    executor.features.gemms = chosen;
    Ok(())
}

/// Times a GEMM of each, and gives those that the driver takes, the fastest first. What it does not take of matrices goes to `states`.
async fn trial(
    executor: &mut GpuExecutor,
    units: &[GemmUnit],
    states: &mut Vec<(Matrices, Result<(), String>)>,
) -> Result<Vec<GemmUnit>, DeviceError> {
    let shape = match executor.info.kind {
        SOFTWARE => SMALL,
        _ => SHAPE,
    };
    let (mut taken, mut plans) = (Vec::new(), Vec::new());
    for &unit in units {
        let mut plan = Plan::default();
        let test = Test::new(&mut plan, kernel(unit), None, shape, false);
        match (executor.prepare(plan).await, unit.matrices()) {
            (Ok(prepared), _) => {
                test.write(executor, prepared)?;
                taken.push(unit);
                plans.push(prepared);
            }
            (Err(error), Some(matrices)) => states.push((matrices, Err(error.to_string()))),
            (Err(error), None) => return Err(error),
        }
    }
    let times = race(executor, &plans).await;
    for plan in plans {
        executor.release(plan);
    }
    let mut trial: Vec<_> = taken.into_iter().zip(times?).collect();
    trial.sort_by(|a, b| a.1.total_cmp(&b.1));
    let best_first = trial.iter().map(|(unit, _)| *unit).collect();
    executor.info.gemms = trial;
    Ok(best_first)
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
