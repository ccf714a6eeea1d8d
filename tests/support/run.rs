//! Runs a case on the twin or on a device.

use crate::case::Case;
use crate::compare::compare;
use plateau::exec::{DeviceError, Executor};
use plateau::plan::{BufferId, Grid, Plan, WIDE_WORKGROUP};
use plateau_shaders::FEW_REGISTERS;
use plateau_shaders::attention::rope_attention::WIDE_TEAMS;
use plateau_shaders::linear::integer::Division;

/// Words past the end of every buffer, which no kernel may touch.
pub const SENTINEL: [u32; 8] = [0x5e47_14e1; 8];

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
        let words = executor
            .read(Some(prepared), bindings[binding - 1], 0..end)
            .await
            .map_err(device)?;
        outputs.push(without_sentinel(words, len, *binding)?);
    }
    executor.release(prepared);
    Ok(outputs)
}

/// The `len` words of a buffer, if those after them are untouched.
pub fn without_sentinel(
    mut words: Vec<u32>,
    len: usize,
    binding: usize,
) -> Result<Vec<u32>, String> {
    if words.get(len..) != Some(&SENTINEL) {
        return Err(format!(
            "binding {binding}: words past the end of the buffer were written"
        ));
    }
    words.truncate(len);
    Ok(words)
}

/// Why `device` cannot run `case`, if so.
pub fn not_supported(device: &Executor, case: &Case) -> Option<String> {
    let matrices = case.kernel.matrices();
    let found = device.features();
    let of_attention = found.matrix_attention && matrices == Some(plateau_shaders::Matrices::F16);
    if matrices.is_some() && matrices != found.gemms.matrices() && !of_attention {
        return Some("the adapter has no such matrices, or others were chosen".to_owned());
    }
    if case.kernel.wgsl().contains("enable f16;") && !device.features().f16 {
        return Some("the adapter has no shader-f16".to_owned());
    }
    if case.kernel.subgroups && !device.features().subgroups {
        return Some("the adapter has no subgroups".to_owned());
    }
    let wide = case.constants.contains(&("WORKGROUP", WIDE_WORKGROUP))
        || case.constants.contains(&WIDE_TEAMS);
    if wide && !device.features().wide_workgroups {
        return Some("the adapter has no workgroups so wide, or no registers for them".to_owned());
    }
    let words = case
        .buffers
        .iter()
        .map(|words| words.len() + SENTINEL.len());
    let largest = 4 * words.max().unwrap_or(0) as u64;
    let limit = device.max_buffer_bytes();
    (largest > limit).then(|| {
        format!("a buffer of {largest} bytes does not fit one binding of the adapter, {limit}")
    })
}

/// Whether the engine gives a pipeline such as that of `case` only to devices with more registers than `device`.
pub fn is_for_more_registers(device: &Executor, case: &Case) -> bool {
    let value = |name: &str| {
        let constant = case.constants.iter().find(|(known, _)| *known == name);
        constant.map(|(_, value)| *value)
    };
    let (name, few) = FEW_REGISTERS;
    let has_fewer = case.kernel.has_override(name) && value(name) != Some(few);
    let divided = value("ROWS").zip(value("STEPS_AHEAD"));
    let is_tuned = divided.is_some_and(|(rows, ahead)| !Division::fits_few_registers(rows, ahead));
    device.features().few_registers && (has_fewer || is_tuned)
}

/// Runs `case` on `device` and on the twin and compares every output.
pub async fn check(device: &mut Executor, case: &Case) -> Result<(), String> {
    let found = run(device, case).await?;
    judge(case, &found).await
}

/// Compares outputs of `case`, in the order of [`Case::outputs`], with those of the twin.
pub async fn judge(case: &Case, found: &[Vec<u32>]) -> Result<(), String> {
    let twin = case.repeats.as_deref().unwrap_or(case);
    let mut expected = run(&mut Executor::twin(), twin).await?;
    for (i, (binding, check)) in case.outputs.iter().enumerate() {
        if case.repeats.is_some() {
            let words = expected[i].iter().copied().cycle();
            expected[i] = words.take(found[i].len()).collect();
        }
        compare(&found[i], &expected[i], check)
            .map_err(|message| format!("binding {binding}: {message}"))?;
    }
    Ok(())
}
