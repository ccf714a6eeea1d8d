//! A row of a table of f16 for each token. Shapes and formula: embedding.wgsl.

pub use super::embedding::{Params, grid};
use crate::kernel::{Access, Call, Kernel};
use half::f16;

pub const KERNEL: Kernel = Kernel {
    name: "embedding_f16",
    source: &[
        include_str!("embedding.wgsl"),
        include_str!("embedding_f16.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(&call.params(), call.read(1), call.read(2), call.write(3));
}

/// The definition of `embedding_f16`; see the headers of embedding.wgsl and embedding_f16.wgsl for shapes.
pub fn reference(params: &Params, tokens: &[u32], table: &[f16], y: &mut [f32]) {
    super::embedding::lookup(params, tokens, y, |_, index| table[index].to_f32());
}
