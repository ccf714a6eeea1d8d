//! Finds the first dispatch of a plan where two executors diverge.

use super::{DeviceError, Executor, PlanId};
use crate::plan::{BufferId, Dispatch, Plan, SharedBuffers};
use std::collections::BTreeSet;

/// Where two executors part ways.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Index in [`Plan::dispatches`].
    pub index: usize,
    pub label: String,
    pub kernel: &'static str,
    /// The buffer that differs.
    pub buffer: String,
    /// What the judge said.
    pub message: String,
}

/// One of the two executors with its prepared copy of the plan.
pub struct Side<'a> {
    pub executor: &'a mut Executor,
    pub plan: PlanId,
}

/// Judges a written buffer: dispatch, binding (1, 2, …), found words, expected words.
pub type Judge<'a> = dyn Fn(&Dispatch, usize, &[u32], &[u32]) -> Result<(), String> + 'a;

/// Runs `plan` dispatch by dispatch on both sides, each time with `reference`'s own inputs given to `device`, and judges
/// what is written. Weights are taken to be equal already.
pub async fn bisect(
    plan: &Plan,
    shared: &SharedBuffers,
    mut reference: Side<'_>,
    mut device: Side<'_>,
    judge: &Judge<'_>,
) -> Result<Option<Divergence>, DeviceError> {
    let written: BTreeSet<BufferId> = plan.dispatches.iter().flat_map(Dispatch::writes).collect();
    for (index, dispatch) in plan.dispatches.iter().enumerate() {
        let inputs: BTreeSet<BufferId> = dispatch
            .bindings
            .iter()
            .copied()
            .filter(|id| written.contains(id))
            .collect();
        for id in inputs {
            let words = read(plan, shared, &mut reference, id).await?;
            device.executor.write_in(Some(device.plan), id, 0, &words)?;
        }
        reference
            .executor
            .run_range(reference.plan, index..index + 1)?;
        device.executor.run_range(device.plan, index..index + 1)?;
        for id in dispatch.writes() {
            let expected = read(plan, shared, &mut reference, id).await?;
            let found = read(plan, shared, &mut device, id).await?;
            let binding = 1 + dispatch
                .bindings
                .iter()
                .position(|b| *b == id)
                .expect("writes are bindings");
            if let Err(message) = judge(dispatch, binding, &found, &expected) {
                return Ok(Some(Divergence {
                    index,
                    label: dispatch.label.clone(),
                    kernel: dispatch.kernel.name,
                    buffer: desc(plan, shared, id).label.clone(),
                    message,
                }));
            }
        }
    }
    Ok(None)
}

fn desc<'a>(
    plan: &'a Plan,
    shared: &'a SharedBuffers,
    id: BufferId,
) -> &'a crate::plan::BufferDesc {
    match id {
        BufferId::Shared(i) => &shared.descs[i as usize],
        BufferId::Scratch(i) => &plan.scratch[i as usize],
    }
}

async fn read(
    plan: &Plan,
    shared: &SharedBuffers,
    side: &mut Side<'_>,
    id: BufferId,
) -> Result<Vec<u32>, DeviceError> {
    side.executor
        .read(Some(side.plan), id, 0..desc(plan, shared, id).words)
        .await
}
