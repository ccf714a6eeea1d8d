//! Root-mean-square norm of each query and key head, in place. Shapes and formula: head_norm.wgsl.

use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "head_norm",
    source: &[
        include_str!("head_norm.wgsl"),
        include_str!("workgroup_sum.wgsl"),
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
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Features of a row of qkv.
    pub stride: u32,
    pub eps: f32,
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.heads + params.kv_heads, params.rows, 1]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `head_norm`; see the header of head_norm.wgsl for shapes.
pub fn reference(params: &Params, weights: &[f32], qkv: &mut [f32]) {
    let head_dim = params.head_dim as usize;
    let (q_norm, k_norm) = weights.split_at(head_dim);
    for row in 0..params.rows as usize {
        for head in 0..(params.heads + params.kv_heads) as usize {
            let weight = if head < params.heads as usize {
                q_norm
            } else {
                k_norm
            };
            let start = row * params.stride as usize + head * head_dim;
            super::normalize(&mut qkv[start..][..head_dim], weight, params.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_keys_have_their_own_weights_and_values_stay() {
        let params = Params {
            rows: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            stride: 6,
            eps: 0.0,
        };
        let mut qkv = [1.0, -1.0, 2.0, 2.0, 5.0, 6.0];
        reference(&params, &[1.0, 2.0, 3.0, 4.0], &mut qkv);
        assert_eq!(qkv, [1.0, -2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
