//! Embedding, learned positions, gather, SwiGLU, ReLU.

use super::linear::{RowRange, WeightFormat};
use crate::plan::{BufferId, Grid, Plan};
use crate::tensor::Bits;
use plateau_shaders::elementwise as kernels;

/// The token embedding, or the table of positions: rows as a linear's weight, so that a tied head uses the same buffers.
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    pub hidden: u32,
    pub vocab: u32,
    /// `F32`, `F16` or INT8 with one scale for each row.
    pub format: WeightFormat,
    pub ranges: Vec<RowRange>,
}

/// `y[r] = table[tokens[r]]`, y is [rows, hidden].
pub fn embedding(
    plan: &mut Plan,
    table: &EmbeddingTable,
    tokens: BufferId,
    y: BufferId,
    rows: u32,
) {
    for range in &table.ranges {
        let params = kernels::embedding_f32::Params {
            rows,
            hidden: table.hidden,
            vocab: table.vocab,
            first_row: range.first_row,
            num_rows: range.rows,
        };
        let grid = Grid::Fixed(kernels::embedding_f32::grid(&params));
        let label = "embed_tokens";
        match table.format {
            WeightFormat::F32 => {
                plan.dispatch(
                    label,
                    &kernels::embedding_f32::KERNEL,
                    params,
                    grid,
                    &[tokens, range.w, y],
                );
            }
            WeightFormat::F16 => {
                plan.dispatch(
                    label,
                    &kernels::embedding_f16::KERNEL,
                    params,
                    grid,
                    &[tokens, range.w, y],
                );
            }
            WeightFormat::Int {
                bits: Bits::Int8, ..
            } => {
                plan.dispatch(
                    label,
                    &kernels::embedding_i8::KERNEL,
                    params,
                    grid,
                    &[tokens, range.w, range.aux, y],
                );
            }
            WeightFormat::Int {
                bits: Bits::Int4, ..
            } => {
                unreachable!("weights.rs stores embeddings as INT8 in every integer mode")
            }
        }
    }
}

/// `x[r] += table[position of r + offset]`, x is [rows, hidden]; `table` is F32.
pub fn add_positions(
    plan: &mut Plan,
    table: &EmbeddingTable,
    row_info: BufferId,
    x: BufferId,
    rows: u32,
    offset: u32,
) {
    for range in &table.ranges {
        let params = kernels::add_positions::Params {
            rows,
            hidden: table.hidden,
            offset,
            first_row: range.first_row,
            num_rows: range.rows,
        };
        let grid = Grid::Fixed(kernels::add_positions::grid(&params));
        plan.dispatch(
            "embed_positions",
            &kernels::add_positions::KERNEL,
            params,
            grid,
            &[row_info, range.w, x],
        );
    }
}

/// Puts `stored` [hidden] in the place of the rows of x [rows, hidden] that are `token` at position 0.
pub fn stored_row(
    plan: &mut Plan,
    tokens: BufferId,
    row_info: BufferId,
    token: u32,
    stored: BufferId,
    x: BufferId,
    rows: u32,
    hidden: u32,
) {
    let params = kernels::stored_row::Params {
        rows,
        features: hidden,
        token,
    };
    let grid = Grid::Fixed(kernels::stored_row::grid(&params));
    plan.dispatch(
        "hidden_prefix",
        &kernels::stored_row::KERNEL,
        params,
        grid,
        &[tokens, row_info, stored, x],
    );
}

/// `y[i] = x[index[i]]` for rows of `features`.
pub fn gather_rows(
    plan: &mut Plan,
    index: BufferId,
    x: BufferId,
    y: BufferId,
    n: u32,
    features: u32,
) {
    let params = kernels::gather_rows::Params { n, features };
    let grid = Grid::Fixed(kernels::gather_rows::grid(&params));
    plan.dispatch(
        "gather_rows",
        &kernels::gather_rows::KERNEL,
        params,
        grid,
        &[index, x, y],
    );
}

/// `y = silu(gate) * up`, x is [rows, 2 * features], y is [rows, features].
pub(super) fn silu_mul(
    plan: &mut Plan,
    label: String,
    x: BufferId,
    y: BufferId,
    rows: u32,
    features: u32,
) {
    let params = kernels::silu_mul::Params { rows, features };
    let grid = Grid::Fixed(kernels::silu_mul::grid(&params));
    plan.dispatch(label, &kernels::silu_mul::KERNEL, params, grid, &[x, y]);
}

/// `x = max(x, 0)` in place, x is [rows, features].
pub(super) fn relu(plan: &mut Plan, label: String, x: BufferId, rows: u32, features: u32) {
    let params = kernels::relu::Params { rows, features };
    let grid = Grid::Fixed(kernels::relu::grid(&params));
    plan.dispatch(label, &kernels::relu::KERNEL, params, grid, &[x]);
}
