//! Learned positions: a row of a table added to each row. Shapes and formula: add_positions.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use crate::padded;
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "add_positions",
    source: &[include_str!("add_positions.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub hidden: u32,
    /// Row of the table for position 0.
    pub offset: u32,
    /// The first row of the table that this part of it holds …
    pub first_row: u32,
    /// … and how many it holds.
    pub num_rows: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.hidden, WORKGROUP), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `add_positions`; see the header of add_positions.wgsl for shapes.
pub fn reference(params: &Params, row_info: &[[u32; 2]], table: &[f32], x: &mut [f32]) {
    let hidden = params.hidden as usize;
    let part = params.first_row..params.first_row + params.num_rows;
    for row in 0..params.rows as usize {
        let whole_row = row_info[row][1] + params.offset;
        if !part.contains(&whole_row) {
            continue;
        }
        let table_row = (whole_row - params.first_row) as usize * padded(params.hidden) as usize;
        for i in 0..hidden {
            x[row * hidden + i] += table[table_row + i];
        }
    }
}
