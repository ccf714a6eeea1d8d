//! Appending to the KV pools. Shapes and formula: kv_append.wgsl.

use super::pools::KvFormat;
use crate::PAGE_SIZE;
use crate::kernel::{Access, Call, Kernel};
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub kv_heads: u32,
    /// Even, and at most 256.
    pub head_dim: u32,
    /// Features of a row of qkv.
    pub stride: u32,
    /// Feature where the k heads of a row start.
    pub k_offset: u32,
    /// Feature where the v heads of a row start.
    pub v_offset: u32,
    /// Pages of a row of the block table.
    pub table_stride: u32,
}

/// Workgroups in x, y, z, of a head each.
pub fn grid_of_one(params: &Params) -> [u32; 3] {
    [params.kv_heads, params.rows, 2]
}

/// Workgroups in x, y, z, of four heads each.
pub fn grid_of_four(params: &Params) -> [u32; 3] {
    const HEADS: u32 = 4;
    [params.kv_heads.div_ceil(HEADS), params.rows, 2]
}

/// The kernel for pools of type `F`.
pub(super) const fn kernel<F: KvFormat>(
    name: &'static str,
    source: &'static [&'static str],
) -> Kernel {
    Kernel {
        name,
        source,
        bindings: &[
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
            Access::ReadWrite,
        ],
        params_bytes: size_of::<Params>(),
        subgroups: false,
        run: run::<F>,
    }
}

fn run<F: KvFormat>(call: &mut Call<'_>) {
    reference::<F>(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.write(4),
        call.write(5),
    );
}

/// The definition of `kv_append_*`; see the header of kv_append.wgsl for shapes.
pub fn reference<F: KvFormat>(
    params: &Params,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    k_pool: &mut [u32],
    v_pool: &mut [u32],
) {
    let (kv_heads, head_dim) = (params.kv_heads as usize, params.head_dim as usize);
    let block_words = F::block_words(head_dim);
    for row in 0..params.rows as usize {
        let [sequence, position] = row_info[row];
        let page =
            block_table[(sequence * params.table_stride + position / PAGE_SIZE) as usize] as usize;
        let key = (position % PAGE_SIZE) as usize;
        for head in 0..kv_heads {
            let block = (page * kv_heads + head) * block_words;
            let features = |offset: u32| {
                let first = row * params.stride as usize + offset as usize + head * head_dim;
                &qkv[first..][..head_dim]
            };
            let (k, v) = (features(params.k_offset), features(params.v_offset));
            F::write(&mut k_pool[block..][..block_words], key, k);
            F::write(&mut v_pool[block..][..block_words], key, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pools::F32;
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
        let (mut k_pool, mut v_pool) = (vec![0; 2 * 2 * 64 * 2], vec![0; 2 * 2 * 64 * 2]);
        // Sequence 1, position 67: key 3 of its second page, which is page 1 of the pool.
        reference::<F32>(
            &params,
            &[[1, 67]],
            &[9, 9, 0, 1],
            &qkv,
            &mut k_pool,
            &mut v_pool,
        );
        let at = |pool: &[u32], head: usize| {
            pool[((2 + head) * 64 + 3) * 2..][..2]
                .iter()
                .map(|&bits| f32::from_bits(bits))
                .collect::<Vec<f32>>()
        };
        assert_eq!([at(&k_pool, 0), at(&k_pool, 1)], [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!([at(&v_pool, 0), at(&v_pool, 1)], [[5.0, 6.0], [7.0, 8.0]]);
        assert_eq!(k_pool.iter().filter(|&&v| v != 0).count(), 4);
    }
}
