//! Integers with one static scale, large channels flattened. Shapes and formula: flatten_quantize.wgsl.

use crate::kernel::{Access, Call, Kernel, div_ceil};
use crate::pack;
use bytemuck::{Pod, Zeroable};

pub const KERNEL: Kernel = Kernel {
    name: "flatten_quantize",
    source: &[
        include_str!("flatten_quantize.wgsl"),
        include_str!("flat_part.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub features: u32,
    /// `features` and the extra channels.
    pub flat_features: u32,
    /// 7 or 127.
    pub q_max: u32,
    /// q_max / threshold.
    pub inv_scale: f32,
}

const WORKGROUP: u32 = 64;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [
        div_ceil(
            pack::i8_row_words(params.flat_features as usize) as u32,
            WORKGROUP,
        ),
        params.rows,
        1,
    ]
}

/// The entry of the map for an extra channel: part `part` of channel `source`.
pub const fn extra(source: u32, part: u32) -> u32 {
    source | part << 24
}

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `flatten_quantize`; see the header of flatten_quantize.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], map: &[u32], x_q: &mut [u32]) {
    let features = params.features as usize;
    let words = pack::i8_row_words(params.flat_features as usize);
    let q_max = params.q_max as i32;
    let (parts, extras) = map[..params.flat_features as usize].split_at(features);
    for row in 0..params.rows as usize {
        let x = &x[row * features..][..features];
        let part_of = |source: usize, part: i32| {
            let limit = (parts[source] * params.q_max) as f32;
            let q = (x[source] * params.inv_scale)
                .clamp(-limit, limit)
                .round_ties_even() as i32;
            (q.signum() * (q.abs() - part * q_max).clamp(0, q_max)) as i8
        };
        let bulk = (0..features).map(|source| part_of(source, 0));
        let extra = extras
            .iter()
            .map(|entry| part_of((entry & 0x00ff_ffff) as usize, (entry >> 24) as i32));
        let q: Vec<i8> = bulk.chain(extra).collect();
        x_q[row * words..][..words].copy_from_slice(&pack::pack_i8(&q));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_to_the_value_and_saturate_at_their_number() {
        // Threshold 7 at q_max 7: a step is 1. Channel 1 has three parts, the others one.
        let params = Params {
            rows: 2,
            features: 3,
            flat_features: 5,
            q_max: 7,
            inv_scale: 1.0,
        };
        let map = [1, 3, 1, extra(1, 1), extra(1, 2)];
        let x = [2.5, -16.6, 9.0, -0.5, 100.0, 1.5];
        let mut x_q = [u32::MAX; 16];
        reference(&params, &x, &map, &mut x_q);
        let mut q = [[0; 32]; 2];
        pack::unpack_i8(&x_q[..8], &mut q[0]);
        pack::unpack_i8(&x_q[8..], &mut q[1]);
        assert_eq!(q[0][..6], [2, -7, 7, -7, -3, 0]);
        assert_eq!(q[1][..6], [0, 7, 2, 7, 7, 0]);
        assert!(q.iter().all(|row| row[5..].iter().all(|&v| v == 0)));
    }
}
