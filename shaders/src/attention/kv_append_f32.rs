//! New keys and values into pools of f32. Shapes and formula: kv_append.wgsl.

pub use super::kv_append::Params;
use super::kv_append::append;
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "kv_append_f32",
    source: &[
        include_str!("kv_append.wgsl"),
        include_str!("kv_append_f32.wgsl"),
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
    super::kv_append::grid(params, 1)
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

/// The definition of `kv_append_f32`; see the header of kv_append.wgsl for shapes.
pub fn reference(
    params: &Params,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    k_pool: &mut [f32],
    v_pool: &mut [f32],
) {
    append(
        params,
        row_info,
        block_table,
        qkv,
        params.k_offset,
        k_pool,
        |x| x,
    );
    append(
        params,
        row_info,
        block_table,
        qkv,
        params.v_offset,
        v_pool,
        |x| x,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_goes_to_the_page_of_its_position() {
        let params = Params {
            rows: 1,
            kv_heads: 2,
            head_dim: 2,
            stride: 9,
            k_offset: 1,
            v_offset: 5,
            table_stride: 2,
        };
        let qkv = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let (mut k_pool, mut v_pool) = (vec![0.0; 2 * 2 * 64 * 2], vec![0.0; 2 * 2 * 64 * 2]);
        // Sequence 1, position 67: key 3 of its second page, which is page 1 of the pool.
        reference(
            &params,
            &[[1, 67]],
            &[9, 9, 0, 1],
            &qkv,
            &mut k_pool,
            &mut v_pool,
        );
        let at = |pool: &[f32], head: usize| pool[((2 + head) * 64 + 3) * 2..][..2].to_vec();
        assert_eq!([at(&k_pool, 0), at(&k_pool, 1)], [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!([at(&v_pool, 0), at(&v_pool, 1)], [[5.0, 6.0], [7.0, 8.0]]);
        assert_eq!(k_pool.iter().filter(|&&v| v != 0.0).count(), 4);
    }
}
