//! New keys and values into pools of halves. Shapes and formula: kv_append.wgsl.

pub use super::kv_append::Params;
use super::kv_append::append;
use crate::kernel::{Access, Call, Kernel};
use half::f16;

pub const KERNEL: Kernel = Kernel {
    name: "kv_append_f16",
    source: &[
        include_str!("kv_append.wgsl"),
        include_str!("kv_append_f16.wgsl"),
    ],
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::ReadWrite,
        Access::ReadWrite,
    ],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    super::kv_append::grid(params, 2)
}

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.write(4),
        call.write(5),
    );
}

/// The definition of `kv_append_f16`; see the header of kv_append.wgsl for shapes.
pub fn reference(
    params: &Params,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    k_pool: &mut [f16],
    v_pool: &mut [f16],
) {
    append(
        params,
        row_info,
        block_table,
        qkv,
        params.k_offset,
        k_pool,
        f16::from_f32,
    );
    append(
        params,
        row_info,
        block_table,
        qkv,
        params.v_offset,
        v_pool,
        f16::from_f32,
    );
}
