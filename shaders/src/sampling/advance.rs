//! From one step to the next without the host. Shapes and formula: advance.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "advance",
    source: &[include_str!("advance.wgsl")],
    bindings: &[
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    /// Places of a sequence's history, at least 1.
    pub window: u32,
}

const WORKGROUP: u32 = 64;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.rows, WORKGROUP), 1, 1]
}

fn run(call: &mut Call<'_>) {
    let params = call.params();
    reference(
        &params,
        call.read(1),
        call.write(2),
        call.write(3),
        call.write(4),
    );
}

/// The definition of `advance`; see the header of advance.wgsl for shapes.
pub fn reference(
    params: &Params,
    token: &[u32],
    tokens: &mut [u32],
    row_info: &mut [[u32; 2]],
    history: &mut [u32],
) {
    for row in 0..params.rows as usize {
        let [sequence, position] = &mut row_info[row];
        *position += 1;
        tokens[row] = token[row];
        history[(*sequence * params.window + *position % params.window) as usize] = token[row];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_moves_everything_by_one() {
        let params = Params { rows: 2, window: 3 };
        let (mut tokens, mut row_info) = ([0; 2], [[1, 4], [0, 1]]);
        let mut history = [0; 6];
        reference(&params, &[11, 22], &mut tokens, &mut row_info, &mut history);
        assert_eq!((tokens, row_info), ([11, 22], [[1, 5], [0, 2]]));
        assert_eq!(history, [0, 0, 22, 0, 0, 11]);
    }
}
