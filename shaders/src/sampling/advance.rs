//! From one step to the next without the host. Shapes and formula: advance.wgsl.

use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "advance",
    source: &[include_str!("advance.wgsl")],
    bindings: &[
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    /// Places of a sequence's history; 0: none is kept.
    pub window: u32,
    /// Steps that the ring holds, at least 1.
    pub ring_len: u32,
}

/// Workgroups in x, y, z.
pub fn grid(_params: &Params) -> [u32; 3] {
    [1, 1, 1]
}

fn run(call: &mut Call<'_>) {
    let params = call.params();
    reference(
        &params,
        call.read(1),
        call.write(2),
        call.write(3),
        call.write(4),
        call.write(5),
        call.write(6),
    );
}

/// The definition of `advance`; see the header of advance.wgsl for shapes.
pub fn reference(
    params: &Params,
    token: &[u32],
    tokens: &mut [u32],
    row_info: &mut [[u32; 2]],
    history: &mut [u32],
    ring: &mut [u32],
    state: &mut [u32],
) {
    let slot = state[0] % params.ring_len;
    for row in 0..params.rows as usize {
        let [sequence, position] = &mut row_info[row];
        *position += 1;
        tokens[row] = token[row];
        if params.window > 0 {
            history[(*sequence * params.window + *position % params.window) as usize] = token[row];
        }
        ring[(slot * params.rows) as usize + row] = token[row];
    }
    state[0] = state[0].wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_moves_everything_by_one() {
        let params = Params {
            rows: 2,
            window: 3,
            ring_len: 2,
        };
        let (mut tokens, mut row_info) = ([0; 2], [[1, 4], [0, 1]]);
        let (mut history, mut ring, mut state) = ([0; 6], [0; 4], [7]);
        reference(
            &params,
            &[11, 22],
            &mut tokens,
            &mut row_info,
            &mut history,
            &mut ring,
            &mut state,
        );
        assert_eq!((tokens, row_info), ([11, 22], [[1, 5], [0, 2]]));
        assert_eq!(
            (history, ring, state),
            ([0, 0, 22, 0, 0, 11], [0, 0, 11, 22], [8])
        );
    }
}
