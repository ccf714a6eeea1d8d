//! RMS norm to flat integers. Shapes and formula: rms_norm_flat.wgsl.

use super::rms_norm;
use crate::kernel::{Access, Call, Kernel};
use crate::quantize::flatten_quantize;
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "rms_norm_flat",
    source: &[
        include_str!("rms_norm_flat.wgsl"),
        include_str!("inverse_rms.wgsl"),
        include_str!("workgroup_sum.wgsl"),
        include_str!("../quantize/flat_part.wgsl"),
    ],
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
    pub eps: f32,
    /// `features` and the extra channels.
    pub flat_features: u32,
    /// 7 or 127.
    pub q_max: u32,
    /// q_max / threshold.
    pub inv_scale: f32,
}

impl Params {
    /// Of the `flatten_quantize` that follows the norm.
    pub fn quantize(&self) -> flatten_quantize::Params {
        flatten_quantize::Params {
            rows: self.rows,
            features: self.features,
            flat_features: self.flat_features,
            q_max: self.q_max,
            inv_scale: self.inv_scale,
        }
    }
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.rows, 1, 1]
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

/// The definition of `rms_norm_flat`: `rms_norm`, then `flatten_quantize`.
pub fn reference(params: &Params, x: &[f32], weight: &[f32], map: &[u32], x_q: &mut [u32]) {
    let norm = rms_norm::Params {
        rows: params.rows,
        hidden: params.features,
        eps: params.eps,
    };
    let mut y = vec![0.0; (params.rows * params.features) as usize];
    rms_norm::reference(&norm, x, weight, &mut y);
    flatten_quantize::reference(&params.quantize(), &y, map, x_q);
}
