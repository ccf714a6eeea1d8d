//! Rope, the KV cache, attention.

use super::GEMV_ROWS;
use crate::plan::{BufferId, Grid, Plan};
use crate::tensor::KvType;
use plateau_shaders::attention as kernels;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Keys seen back from a position, itself included; 0 is all.
    pub window: u32,
}

impl AttentionShape {
    /// Features of a row of qkv.
    pub const fn stride(&self) -> u32 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// A layer's cache: [pages, kv_heads, 64, head_dim] each.
#[derive(Clone, Copy, Debug)]
pub struct KvPools {
    pub k: BufferId,
    pub v: BufferId,
    pub kv_type: KvType,
    /// Pages of a row of the block table.
    pub table_stride: u32,
}

/// Which row is where.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInput {
    /// `[rows]` (sequence, position)
    pub row_info: BufferId,
    /// [sequences, table_stride] pages
    pub block_table: BufferId,
    /// `[num_tiles]` (first row, rows)
    pub tiles: BufferId,
    pub num_tiles: u32,
}

/// Rotates the q and k heads of `qkv` in place.
pub fn rope(
    plan: &mut Plan,
    label: String,
    shape: AttentionShape,
    row_info: BufferId,
    table: BufferId,
    qkv: BufferId,
    rows: u32,
) {
    let params = kernels::rope::Params {
        rows,
        num_heads: shape.heads + shape.kv_heads,
        head_dim: shape.head_dim,
        stride: shape.stride(),
    };
    let grid = Grid::Fixed(kernels::rope::grid(&params));
    plan.dispatch(
        label,
        &kernels::rope::KERNEL,
        params,
        grid,
        &[row_info, table, qkv],
    );
}

/// Writes the k and v heads of `qkv` to their pages.
pub fn kv_append(
    plan: &mut Plan,
    label: String,
    shape: AttentionShape,
    input: AttentionInput,
    qkv: BufferId,
    pools: KvPools,
    rows: u32,
) {
    let params = kernels::kv_append_f32::Params {
        rows,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        stride: shape.stride(),
        k_offset: shape.heads * shape.head_dim,
        v_offset: (shape.heads + shape.kv_heads) * shape.head_dim,
        table_stride: pools.table_stride,
    };
    let (kernel, grid) = match pools.kv_type {
        KvType::F32 => (
            &kernels::kv_append_f32::KERNEL,
            kernels::kv_append_f32::grid(&params),
        ),
        KvType::F16 => (
            &kernels::kv_append_f16::KERNEL,
            kernels::kv_append_f16::grid(&params),
        ),
    };
    plan.dispatch(
        label,
        kernel,
        params,
        Grid::Fixed(grid),
        &[input.row_info, input.block_table, qkv, pools.k, pools.v],
    );
}

/// `y = softmax(q kᵀ / sqrt(head_dim)) v`, causal; y is [rows, heads * head_dim].
pub fn attention(
    plan: &mut Plan,
    label: String,
    shape: AttentionShape,
    input: AttentionInput,
    qkv: BufferId,
    pools: KvPools,
    y: BufferId,
    rows: u32,
) {
    let scale = (1.0 / f64::from(shape.head_dim).sqrt()) as f32;
    if rows <= GEMV_ROWS {
        let params = kernels::attention_decode_f32::Params {
            rows,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            stride: shape.stride(),
            table_stride: pools.table_stride,
            window: shape.window,
            scale,
        };
        let grid = Grid::Fixed(kernels::attention_decode_f32::grid(&params));
        let kernel = match pools.kv_type {
            KvType::F32 => &kernels::attention_decode_f32::KERNEL,
            KvType::F16 => &kernels::attention_decode_f16::KERNEL,
        };
        let bindings = [input.row_info, input.block_table, qkv, pools.k, pools.v, y];
        plan.dispatch(label, kernel, params, grid, &bindings);
    } else {
        let params = kernels::attention_prefill_f32::Params {
            rows,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            stride: shape.stride(),
            table_stride: pools.table_stride,
            window: shape.window,
            scale,
            num_tiles: input.num_tiles,
        };
        let grid = Grid::Fixed(kernels::attention_prefill_f32::grid(&params));
        let kernel = match pools.kv_type {
            KvType::F32 => &kernels::attention_prefill_f32::KERNEL,
            KvType::F16 => &kernels::attention_prefill_f16::KERNEL,
        };
        let bindings = [
            input.row_info,
            input.tiles,
            input.block_table,
            qkv,
            pools.k,
            pools.v,
            y,
        ];
        plan.dispatch(label, kernel, params, grid, &bindings);
    }
}
