//! The positive part. Shapes and formula: relu.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "relu",
    source: &[include_str!("relu.wgsl"), include_str!("relu_of.wgsl")],
    bindings: &[Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub features: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.features, WORKGROUP), params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.write(1));
}

/// The definition of `relu`; see the header of relu.wgsl for shapes.
pub fn reference(params: &Params, x: &mut [f32]) {
    for x in &mut x[..params.rows as usize * params.features as usize] {
        if *x <= 0.0 {
            *x = 0.0;
        }
    }
}
