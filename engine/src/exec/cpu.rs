//! Runs the twins over host memory: the definition of every result, and the fallback of a machine without a GPU driver.

use crate::plan::{BufferDesc, BufferId, Dispatch, Plan};
use plateau_shaders::{Access, Buffer, Call};
use std::ops::Range;

/// Host memory for the shared buffers and for the scratch of each prepared plan.
#[derive(Default)]
pub struct CpuExecutor {
    shared: Vec<Vec<u32>>,
    plans: Vec<Option<(Plan, Vec<Vec<u32>>)>>,
}

impl CpuExecutor {
    pub(super) fn allocate(&mut self, desc: &BufferDesc) {
        self.shared.push(vec![0; desc.words as usize]);
    }

    pub(super) fn prepare(&mut self, plan: Plan) -> usize {
        let scratch = plan
            .scratch
            .iter()
            .map(|desc| vec![0; desc.words as usize])
            .collect();
        self.plans.push(Some((plan, scratch)));
        self.plans.len() - 1
    }

    pub(super) fn release(&mut self, plan: usize) {
        self.plans[plan] = None;
    }

    pub(super) fn words_mut(&mut self, plan: Option<usize>, id: BufferId) -> &mut [u32] {
        match id {
            BufferId::Shared(i) => &mut self.shared[i as usize],
            BufferId::Scratch(i) => {
                let plan = plan.expect("a scratch buffer is named together with its plan");
                &mut self.plans[plan]
                    .as_mut()
                    .expect("the plan was not released")
                    .1[i as usize]
            }
        }
    }

    /// Number of dispatches of a plan.
    pub(super) fn len(&self, plan: usize) -> usize {
        self.plans[plan]
            .as_ref()
            .expect("the plan was not released")
            .0
            .dispatches
            .len()
    }

    pub(super) fn run(&mut self, plan: usize, dispatches: Range<usize>) {
        let (plan, scratch) = self.plans[plan]
            .as_mut()
            .expect("the plan was not released");
        for dispatch in &plan.dispatches[dispatches] {
            run_dispatch(dispatch, &mut self.shared, scratch);
        }
    }
}

fn run_dispatch(dispatch: &Dispatch, shared: &mut [Vec<u32>], scratch: &mut [Vec<u32>]) {
    // Buffers that are written are taken out for the time of the call, so that the others can be lent.
    let mut written: Vec<(BufferId, Vec<u32>)> = dispatch
        .writes()
        .map(|id| match id {
            BufferId::Shared(i) => (id, std::mem::take(&mut shared[i as usize])),
            BufferId::Scratch(i) => (id, std::mem::take(&mut scratch[i as usize])),
        })
        .collect();
    let mut writes = written.iter_mut();
    let buffers = dispatch
        .bindings
        .iter()
        .zip(dispatch.kernel.bindings)
        .map(|(id, access)| match (access, id) {
            (Access::Read, BufferId::Shared(i)) => Buffer::Read(&shared[*i as usize]),
            (Access::Read, BufferId::Scratch(i)) => Buffer::Read(&scratch[*i as usize]),
            (Access::ReadWrite, _) => {
                Buffer::ReadWrite(&mut writes.next().expect("written has one entry for each").1)
            }
        })
        .collect();
    (dispatch.kernel.run)(&mut Call::new(
        &dispatch.params,
        &dispatch.constants,
        buffers,
    ));
    for (id, words) in written {
        match id {
            BufferId::Shared(i) => shared[i as usize] = words,
            BufferId::Scratch(i) => scratch[i as usize] = words,
        }
    }
}
