//! What the embeddings of all table formats share: embedding.wgsl.

use crate::kernel::div_ceil;
use crate::padded;
use bytemuck::{Pod, Zeroable};

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub hidden: u32,
    /// Rows of the whole table.
    pub vocab: u32,
    /// The first of them that this part of the table holds …
    pub first_row: u32,
    /// … and how many it holds.
    pub num_rows: u32,
}

const WORKGROUP: u32 = 256;

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [div_ceil(params.hidden, WORKGROUP), params.rows, 1]
}

/// Fills each row of y whose token this part of the table holds with `load(table_row, element_of_the_table)`.
pub(super) fn lookup(
    params: &Params,
    tokens: &[u32],
    y: &mut [f32],
    load: impl Fn(usize, usize) -> f32,
) {
    let hidden = params.hidden as usize;
    let part = params.first_row..params.first_row + params.num_rows;
    for (row, y) in y[..params.rows as usize * hidden]
        .chunks_exact_mut(hidden)
        .enumerate()
    {
        let token = tokens[row];
        if token >= params.vocab {
            y.fill(0.0);
        } else if part.contains(&token) {
            let table_row = (token - params.first_row) as usize;
            for i in 0..hidden {
                y[i] = load(table_row, table_row * padded(params.hidden) as usize + i);
            }
        }
    }
}
