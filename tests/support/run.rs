//! Runs a case on the twin or on a device.

use crate::case::Case;
use crate::compare::compare;
use plateau::exec::{DeviceError, Executor};
use plateau::plan::{BufferId, Grid, Plan};

/// Words past the end of every buffer, which no kernel may touch.
const SENTINEL: [u32; 8] = [0x5e47_14e1; 8];

/// Runs `case` on `executor`; gives the words of each output binding, in the order of [`Case::outputs`].
pub async fn run(executor: &mut Executor, case: &Case) -> Result<Vec<Vec<u32>>, String> {
    run_in_grid(executor, case, Grid::Fixed(case.grid)).await
}

/// As [`run`], with another grid than the case's own.
pub async fn run_in_grid(
    executor: &mut Executor,
    case: &Case,
    grid: Grid,
) -> Result<Vec<Vec<u32>>, String> {
    let mut plan = Plan::default();
    let bindings: Vec<BufferId> = case
        .buffers
        .iter()
        .enumerate()
        .map(|(i, words)| {
            plan.scratch(
                format!("binding {}", i + 1),
                (words.len() + SENTINEL.len()) as u64,
            )
        })
        .collect();
    plan.dispatches.push(plateau::plan::Dispatch {
        label: case.name.clone(),
        kernel: case.kernel,
        params: case.params.clone(),
        constants: case.constants.clone(),
        bindings: bindings.clone(),
        grid,
    });
    let device = |error: DeviceError| error.to_string();
    let prepared = executor.prepare(plan).await.map_err(device)?;
    for (id, words) in bindings.iter().zip(&case.buffers) {
        executor
            .write_in(Some(prepared), *id, 0, words)
            .map_err(device)?;
        executor
            .write_in(Some(prepared), *id, words.len() as u64, &SENTINEL)
            .map_err(device)?;
    }
    executor.run(prepared).map_err(device)?;
    let mut outputs = Vec::new();
    for (binding, _) in &case.outputs {
        let len = case.buffers[binding - 1].len();
        let end = (len + SENTINEL.len()) as u64;
        let mut words = executor
            .read(Some(prepared), bindings[binding - 1], 0..end)
            .await
            .map_err(device)?;
        if words[len..] != SENTINEL {
            return Err(format!(
                "binding {binding}: words past the end of the buffer were written"
            ));
        }
        words.truncate(len);
        outputs.push(words);
    }
    executor.release(prepared);
    Ok(outputs)
}

/// Runs `case` on `device` and on the twin and compares every output.
pub async fn check(device: &mut Executor, case: &Case) -> Result<(), String> {
    let expected = run(&mut Executor::twin(), case).await?;
    let found = run(device, case).await?;
    for (i, (binding, check)) in case.outputs.iter().enumerate() {
        compare(&found[i], &expected[i], check)
            .map_err(|message| format!("binding {binding}: {message}"))?;
    }
    Ok(())
}
