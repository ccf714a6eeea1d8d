//! What appending to pools of either type shares: kv_append.wgsl.

use crate::PAGE_SIZE;
use crate::kernel::div_ceil;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub kv_heads: u32,
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

const WORKGROUP: u32 = 64;

/// Workgroups in x, y, z.
pub(super) fn grid(params: &Params, features_per_word: u32) -> [u32; 3] {
    [
        div_ceil(
            params.kv_heads * (params.head_dim / features_per_word),
            WORKGROUP,
        ),
        params.rows,
        1,
    ]
}

/// `pool[page, head, key, d] = convert(qkv[row, offset + head * head_dim + d])`: the twin for one of the pools.
pub(super) fn append<T>(
    params: &Params,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    offset: u32,
    pool: &mut [T],
    convert: fn(f32) -> T,
) {
    let head_dim = params.head_dim as usize;
    for row in 0..params.rows as usize {
        let [sequence, position] = row_info[row];
        let page =
            block_table[(sequence * params.table_stride + position / PAGE_SIZE) as usize] as usize;
        let key = (position % PAGE_SIZE) as usize;
        for head in 0..params.kv_heads as usize {
            let x = &qkv[(row * params.stride as usize) + offset as usize + head * head_dim..]
                [..head_dim];
            let start =
                ((page * params.kv_heads as usize + head) * PAGE_SIZE as usize + key) * head_dim;
            for d in 0..head_dim {
                pool[start + d] = convert(x[d]);
            }
        }
    }
}
