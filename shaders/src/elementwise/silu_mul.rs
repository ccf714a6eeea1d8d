//! SwiGLU's product: `silu(gate) * up`. Shapes and formula: silu_mul.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "silu_mul",
    source: &[
        include_str!("silu_mul.wgsl"),
        include_str!("silu_mul_of.wgsl"),
    ],
    bindings: &[Access::Read, Access::ReadWrite],
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
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `silu_mul`; see the header of silu_mul.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], y: &mut [f32]) {
    let features = params.features as usize;
    for row in 0..params.rows as usize {
        let (gate, up) = x[row * 2 * features..][..2 * features].split_at(features);
        for i in 0..features {
            let gate = f64::from(gate[i]);
            y[row * features + i] = (gate / (1.0 + libm::exp(-gate)) * f64::from(up[i])) as f32;
        }
    }
}
