//! Rotary position embedding of the query and key heads, in place. Shapes and formula: rope.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "rope",
    source: &[include_str!("rope.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    /// Query and key heads.
    pub num_heads: u32,
    pub head_dim: u32,
    /// Features of a row of qkv.
    pub stride: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [
        div_ceil(params.num_heads * (params.head_dim / 2), WORKGROUP),
        params.rows,
        1,
    ]
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `rope`; see the header of rope.wgsl for shapes.
pub fn reference(params: &Params, row_info: &[[u32; 2]], rope_table: &[[f32; 2]], qkv: &mut [f32]) {
    let head_dim = params.head_dim as usize;
    let half = head_dim / 2;
    for row in 0..params.rows as usize {
        let [_, position] = row_info[row];
        for head in 0..params.num_heads as usize {
            let x = &mut qkv[row * params.stride as usize + head * head_dim..][..head_dim];
            for i in 0..half {
                let [cos, sin] = rope_table[position as usize * half + i].map(f64::from);
                let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                x[i] = (a * cos - b * sin) as f32;
                x[i + half] = (b * cos + a * sin) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves_of_a_head() {
        let params = Params {
            rows: 1,
            num_heads: 1,
            head_dim: 4,
            stride: 6,
        };
        let table = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]];
        let mut qkv = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        reference(&params, &[[7, 1]], &table, &mut qkv);
        assert_eq!(qkv, [-3.0, 2.0, 1.0, 4.0, 5.0, 6.0]);
    }
}
