//! Picks rows, such as the last one of each sequence before the head. Shapes and formula: gather_rows.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "gather_rows",
    source: &[include_str!("gather_rows.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub n: u32,
    pub features: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.features, WORKGROUP), params.n, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `gather_rows`; see the header of gather_rows.wgsl for shapes.
pub fn reference(params: &Params, index: &[u32], x: &[u32], y: &mut [u32]) {
    let features = params.features as usize;
    for j in 0..params.n as usize {
        y[j * features..][..features]
            .copy_from_slice(&x[index[j] as usize * features..][..features]);
    }
}
