//! Attention, one row per workgroup, over pools of f16. Shapes and formula: paged_attention.wgsl.

use super::paged_attention;
pub use super::paged_attention::{DecodeParams as Params, decode_grid as grid};
use crate::kernel::{Access, Call, Kernel};
use half::f16;

pub const KERNEL: Kernel = Kernel {
    name: "attention_decode_f16",
    source: &[
        include_str!("paged_attention.wgsl"),
        include_str!("pools_f16.wgsl"),
        include_str!("attention_decode.wgsl"),
        include_str!("attention_decode_f16.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.read(4),
        call.read(5),
        call.write(6),
    );
}

/// The definition of `attention_decode_f16`; see the header of paged_attention.wgsl for shapes.
pub fn reference(
    params: &Params,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    k_pool: &[f16],
    v_pool: &[f16],
    y: &mut [f32],
) {
    paged_attention::rows(
        params,
        0..params.rows,
        row_info,
        block_table,
        qkv,
        k_pool,
        v_pool,
        y,
    );
}
