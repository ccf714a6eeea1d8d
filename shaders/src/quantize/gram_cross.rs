//! What rows of integers have to do with floats of the same rows. Shapes and formula: gram.wgsl.

pub use super::gram::{Params, grid};
use crate::kernel::{Access, Call, Kernel};
use crate::pack;
use rayon::prelude::*;

pub const KERNEL: Kernel = Kernel {
    name: "gram_cross",
    source: &[include_str!("gram.wgsl"), include_str!("gram_cross.wgsl")],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `gram_cross`; see the header of gram.wgsl for shapes.
pub fn reference(params: &Params, z: &[u32], x: &[f32], h: &mut [f32]) {
    let (rows, features) = (params.rows as usize, params.features as usize);
    let columns = params.columns as usize;
    let mut values = vec![0_i8; rows * features];
    let words = z.chunks_exact(features / 4);
    for (words, values) in words.zip(values.chunks_exact_mut(features)) {
        pack::unpack_i8(words, values);
    }
    h[..features * columns]
        .par_chunks_exact_mut(columns)
        .enumerate()
        .for_each(|(a, h)| {
            let mut sums = vec![0.0_f64; columns];
            for (z, x) in values
                .chunks_exact(features)
                .zip(x.chunks_exact(columns))
                .filter(|(z, _)| z[a] != 0)
            {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += f64::from(z[a]) * f64::from(*x);
                }
            }
            for (h, sum) in h.iter_mut().zip(sums) {
                *h = (f64::from(*h) + sum) as f32;
            }
        });
}
