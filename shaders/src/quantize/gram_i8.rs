//! What rows of integers add to a Hessian. Shapes and formula: gram.wgsl.

use super::gram::computed;
pub use super::gram::{MAX_ROWS_I8, Params, grid};
use crate::kernel::{Access, Call, Kernel};
use crate::pack;
use rayon::prelude::*;

pub const KERNEL: Kernel = Kernel {
    name: "gram_i8",
    source: &[include_str!("gram.wgsl"), include_str!("gram_i8.wgsl")],
    bindings: &[Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `gram_i8`; see the header of gram.wgsl for shapes.
pub fn reference(params: &Params, x: &[u32], h: &mut [i32]) {
    let features = params.features as usize;
    let words = features / 4;
    let mut values = vec![0_i8; params.rows as usize * features];
    for (words, values) in x.chunks_exact(words).zip(values.chunks_exact_mut(features)) {
        pack::unpack_i8(words, values);
    }
    h[..features * features]
        .par_chunks_exact_mut(features)
        .enumerate()
        .for_each(|(a, h)| {
            for row in values.chunks_exact(features) {
                let x_a = i32::from(row[a]);
                // A flat channel is zero for most rows.
                if x_a == 0 {
                    continue;
                }
                for (b, (h, &x_b)) in h.iter_mut().zip(row).enumerate() {
                    if computed(a as u32, b as u32) {
                        *h += x_a * i32::from(x_b);
                    }
                }
            }
        });
}
