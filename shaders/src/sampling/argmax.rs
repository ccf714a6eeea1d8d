//! Greedy choice, and the row's step to the next token. Shapes and formula: argmax.wgsl.

use crate::kernel::{Access, Call, Kernel};
use crate::sampling::advance;
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "argmax",
    source: &[
        include_str!("argmax.wgsl"),
        include_str!("advance.wgsl"),
        include_str!("better.wgsl"),
    ],
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
    /// Parts of a row: [`super::argmax_parts::parts`].
    pub parts: u32,
    /// Places of a sequence's history, at least 1.
    pub window: u32,
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
}

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.write(2),
        call.write(3),
        call.write(4),
    );
}

/// The definition of `argmax`; see the header of argmax.wgsl for shapes.
pub fn reference(
    params: &Params,
    best: &[[u32; 2]],
    tokens: &mut [u32],
    row_info: &mut [[u32; 2]],
    history: &mut [u32],
) {
    let of_rows = best.chunks_exact(params.parts as usize);
    for (row, best) in of_rows.enumerate().take(params.rows as usize) {
        // The first of the largest: parts are in the order of their indices.
        let mut largest = best[0];
        for &other in best {
            if other[0] > largest[0] {
                largest = other;
            }
        }
        advance(params.window, row, largest[1], tokens, row_info, history);
    }
}
