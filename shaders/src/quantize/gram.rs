//! What the Gram kernels share. Shapes and formula: gram.wgsl.

use bytemuck::{Pod, Zeroable};

/// Rows that `gram_i8` may add to one matrix, over all dispatches: 2^17 products of -128 and -128 reach 2^31, and values are
/// at most 127.
pub const MAX_ROWS_I8: u32 = 1 << 17;

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub features: u32,
    pub columns: u32,
}

impl Params {
    /// Of rows with themselves.
    pub const fn square(rows: u32, features: u32) -> Self {
        Self {
            rows,
            features,
            columns: features,
        }
    }
}

const TILE: u32 = 64;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    let tiles = |n: u32| n.div_ceil(TILE);
    [tiles(params.columns), tiles(params.features), 1]
}

/// Whether the kernels of rows with themselves compute element (a, b): its tile is on or above the diagonal.
pub const fn computed(a: u32, b: u32) -> bool {
    a / TILE <= b / TILE
}
