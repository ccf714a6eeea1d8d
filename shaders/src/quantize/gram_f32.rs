//! What rows of floats add to a Hessian. Shapes and formula: gram.wgsl.

use super::gram::computed;
pub use super::gram::{Params, grid};
use crate::kernel::{Access, Call, Kernel};
use rayon::prelude::*;

pub const KERNEL: Kernel = Kernel {
    name: "gram_f32",
    source: &[include_str!("gram.wgsl"), include_str!("gram_f32.wgsl")],
    bindings: &[Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.write(2));
}

/// The definition of `gram_f32`; see the header of gram.wgsl for shapes.
pub fn reference(params: &Params, x: &[f32], h: &mut [f32]) {
    let features = params.features as usize;
    let x = &x[..params.rows as usize * features];
    h[..features * features]
        .par_chunks_exact_mut(features)
        .enumerate()
        .for_each(|(a, h)| {
            let mut sums = vec![0.0_f64; features];
            for row in x.chunks_exact(features) {
                let x_a = f64::from(row[a]);
                for (sum, &x_b) in sums.iter_mut().zip(row) {
                    *sum += x_a * f64::from(x_b);
                }
            }
            for (b, sum) in sums.into_iter().enumerate() {
                if computed(a as u32, b as u32) {
                    h[b] = (f64::from(h[b]) + sum) as f32;
                }
            }
        });
}
