//! Puts what is known of a first token in place of what was computed. Shapes and formula: stored_row.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "stored_row",
    source: &[include_str!("stored_row.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub features: u32,
    pub token: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.features, WORKGROUP), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.write(4),
    );
}

/// The definition of `stored_row`; see the header of stored_row.wgsl for shapes.
pub fn reference(
    params: &Params,
    tokens: &[u32],
    row_info: &[[u32; 2]],
    stored: &[u32],
    x: &mut [u32],
) {
    let features = params.features as usize;
    for row in 0..params.rows as usize {
        let [_, position] = row_info[row];
        if tokens[row] == params.token && position == 0 {
            x[row * features..][..features].copy_from_slice(&stored[..features]);
        }
    }
}
