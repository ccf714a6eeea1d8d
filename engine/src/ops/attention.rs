//! Rope, the KV cache, attention.

use super::{GEMV_ROWS, StaticInput};
use crate::plan::{BufferId, Dispatch, Grid, Plan};
use crate::tensor::KvType;
use bytemuck::Pod;
use plateau_shaders::attention::{self as kernels, KvFormat};
use plateau_shaders::{Constant, FEW_REGISTERS, Kernel};

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

/// A layer's cache: [pages, kv_heads] blocks of [`kv_block_words`] each.
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
    /// Of rows that each are of another sequence: pages that any of them has at most. `None` where rows may share a sequence.
    pub pages: Option<u32>,
}

/// Up to so many pages of a sequence, one workgroup has a head of a row; above, they are split over several.
pub const WHOLE_PAGES: u32 = 8;

/// From so many query heads of a kv head, and above so many pages of all rows, split attention reads keys and values for four heads at once. Fewer
/// pages leave parts of a large GPU idle then.
const TOGETHER_HEADS: u32 = 3;
const TOGETHER_PAGES: u32 = 16;

/// Up to so many pages, a workgroup has no use for more than two at a time.
const FEW_PAGES: u32 = 2;

/// How many pages a step is planned for, so that sequences up to `pages` long fit: few values, so few plans.
pub fn planned_pages(pages: u32) -> u32 {
    if pages <= FEW_PAGES {
        return FEW_PAGES;
    }
    pages.next_power_of_two().max(WHOLE_PAGES)
}

/// Whether attention rotates the heads and appends the keys itself.
pub fn rotates(plan: &Plan, shape: AttentionShape, input: AttentionInput, pools: KvPools) -> bool {
    let by_vectors = shape
        .head_dim
        .is_multiple_of(kernels::rope_attention::HEAD_DIM_STEP)
        && shape.head_dim <= kernels::rope_attention::MOST_HEAD_DIM;
    plan.features.fused && input.pages.is_some() && pools.kv_type == KvType::F16 && by_vectors
}

/// 32-bit words of the 64 keys, or the 64 values, of one kv head in a page.
pub fn kv_block_words(kv_type: KvType, head_dim: u32) -> u64 {
    let words = match kv_type {
        KvType::F32 => kernels::F32::block_words,
        KvType::F16 => kernels::F16::block_words,
        KvType::I8 => kernels::I8::block_words,
    };
    words(head_dim as usize) as u64
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
    let params = kernels::kv_append::Params {
        rows,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        stride: shape.stride(),
        k_offset: shape.heads * shape.head_dim,
        v_offset: (shape.heads + shape.kv_heads) * shape.head_dim,
        table_stride: pools.table_stride,
    };
    use kernels::{kv_append_f16, kv_append_f32, kv_append_i8};
    let (kernel, grid) = match pools.kv_type {
        KvType::F32 => (&kv_append_f32::KERNEL, kv_append_f32::grid(&params)),
        KvType::F16 => (&kv_append_f16::KERNEL, kv_append_f16::grid(&params)),
        KvType::I8 => (&kv_append_i8::KERNEL, kv_append_i8::grid(&params)),
    };
    plan.dispatch(
        label,
        kernel,
        params,
        Grid::Fixed(grid),
        &[input.row_info, input.block_table, qkv, pools.k, pools.v],
    );
}

/// `y = softmax(q kᵀ / sqrt(head_dim)) v`, causal; y is [rows, heads * head_dim]. With `rope`, the table, the heads of qkv are as they
/// come from the projection: they are rotated and appended on the way.
pub(super) fn attention(
    plan: &mut Plan,
    label: String,
    shape: AttentionShape,
    input: AttentionInput,
    rope: Option<BufferId>,
    qkv: BufferId,
    pools: KvPools,
    y: BufferId,
    rows: u32,
) {
    let by = By::of(plan, shape, input, pools, rows);
    let params = params(shape, input, pools, rows, by);
    let grid = Grid::Fixed(kernels::paged_attention::grid(&params));
    if let Some(rope) = rope {
        let constants = kernels::rope_attention::constants(&params).to_vec();
        match split(plan, &label, params, input, rope, qkv, pools) {
            Some(partials) => {
                let kernel = &kernels::attention_merge::KERNEL;
                let bindings = [input.row_info, partials, y];
                let label = format!("{label}.merge");
                let dispatch = plan.dispatch(label, kernel, params, grid, &bindings);
                dispatch.constants = constants;
            }
            None => {
                let kernel = &kernels::rope_attention_f16::KERNEL;
                let mut bindings = rotated(input, rope, qkv, pools);
                bindings.push(y);
                let constants = whole_constants(plan, &params, input);
                let dispatch = dispatch(plan, label, kernel, params, grid, &bindings);
                dispatch.constants.extend(constants);
            }
        }
        return;
    }
    let (kernel, mut bindings) = call(input, qkv, pools, by, false);
    bindings.push(y);
    dispatch(plan, label, kernel, params, grid, &bindings);
}

/// As [`Plan::dispatch`], in few registers where the device has no more and the kernel can.
fn dispatch<'a, P: Pod>(
    plan: &'a mut Plan,
    label: String,
    kernel: &'static Kernel,
    params: P,
    grid: Grid,
    bindings: &[BufferId],
) -> &'a mut Dispatch {
    let (name, _) = FEW_REGISTERS;
    let few = plan.features.few_registers && kernel.has_override(name);
    let dispatch = plan.dispatch(label, kernel, params, grid, bindings);
    dispatch.constants.extend(few.then_some(FEW_REGISTERS));
    dispatch
}

/// The bindings that rope_attention_* begin with.
fn rotated(input: AttentionInput, rope: BufferId, qkv: BufferId, pools: KvPools) -> Vec<BufferId> {
    vec![
        input.row_info,
        input.block_table,
        qkv,
        rope,
        pools.k,
        pools.v,
    ]
}

/// Values of the overrides of attention with all pages of a head in a workgroup.
fn whole_constants(
    plan: &Plan,
    params: &kernels::paged_attention::Params,
    input: AttentionInput,
) -> Vec<Constant> {
    let mut constants = kernels::rope_attention::constants(params).to_vec();
    let many = input.pages.is_some_and(|pages| pages > FEW_PAGES);
    if many && plan.features.wide_workgroups {
        constants.push(kernels::rope_attention::WIDE_TEAMS);
    }
    constants
}

/// Attention for each page by itself, on matrices or where there are too many pages for a workgroup; gives the partials.
fn split(
    plan: &mut Plan,
    label: &str,
    params: kernels::paged_attention::Params,
    input: AttentionInput,
    rope: BufferId,
    qkv: BufferId,
    pools: KvPools,
) -> Option<BufferId> {
    let (rows, heads, head_dim) = (params.count, params.heads, params.head_dim);
    let matrices = on_matrices(plan, head_dim, pools);
    let pages = input
        .pages
        .filter(|&pages| matrices || pages > WHOLE_PAGES)?;
    let words = kernels::rope_attention::partial_words(rows, heads, head_dim, pages);
    let partials = plan.shared_scratch("partials", words);
    let mut bindings = rotated(input, rope, qkv, pools);
    bindings.push(partials);
    let label = format!("{label}.split");
    if matrices {
        let kernel = &kernels::rope_attention_coop16_split::KERNEL;
        let grid = kernels::rope_attention_coop16_split::grid(&params, pages);
        plan.dispatch(label, kernel, params, Grid::Fixed(grid), &bindings);
        return Some(partials);
    }
    let together = heads / params.kv_heads >= TOGETHER_HEADS && rows * pages > TOGETHER_PAGES;
    let (kernel, grid) = if together {
        let grid = kernels::rope_attention_f16_split4::grid(&params, pages);
        (&kernels::rope_attention_f16_split4::KERNEL, grid)
    } else {
        let grid = kernels::rope_attention_f16_split::grid(&params, pages);
        (&kernels::rope_attention_f16_split::KERNEL, grid)
    };
    let dispatch = dispatch(plan, label, kernel, params, Grid::Fixed(grid), &bindings);
    dispatch
        .constants
        .extend(kernels::rope_attention::constants(&params));
    Some(partials)
}

impl StaticInput {
    /// The input of a linear after attention, or after a gated MLP's product, whose workgroups have `heads` tiles of `head_dim`
    /// channels. Where they can write it themselves the map gets longer by what they need to find their words. Where a word
    /// would have two writers it stays, and `flatten_quantize` has to follow.
    pub fn after_tiles(self, heads: u32, head_dim: u32) -> Self {
        let flat_map = &self.map[..self.flat_features as usize];
        match kernels::map_with_runs(flat_map, heads, head_dim) {
            Some(map) => Self {
                map: map.into(),
                ..self
            },
            None => self,
        }
    }

    /// Whether the workgroups of so many tiles can write it themselves.
    pub(super) fn has_runs_of(&self, heads: u32) -> bool {
        self.map.len() as u32 == self.flat_features + heads + 1
    }
}

/// As [`attention`], its output quantized and flattened as `input` says: x_q is [rows, padded(flat_features) / 4] u32, and the
/// float row is stored nowhere. `flat` is one that attention can write, and `map` holds its map.
pub(super) fn attention_flat(
    plan: &mut Plan,
    label: String,
    shape: AttentionShape,
    input: AttentionInput,
    rope: Option<BufferId>,
    qkv: BufferId,
    pools: KvPools,
    flat: &StaticInput,
    map: BufferId,
    x_q: BufferId,
    rows: u32,
) {
    assert!(
        flat.has_runs_of(shape.heads),
        "{label}: a map with the runs of the heads"
    );
    let by = By::of(plan, shape, input, pools, rows);
    let params = kernels::paged_attention::FlatParams {
        attention: params(shape, input, pools, rows, by),
        flat_features: flat.flat_features,
        q_max: flat.bits.q_max(),
        inv_scale: 1.0 / flat.scale,
    };
    let grid = Grid::Fixed(kernels::paged_attention::grid(&params.attention));
    if let Some(rope) = rope {
        let constants = kernels::rope_attention::constants(&params.attention).to_vec();
        match split(plan, &label, params.attention, input, rope, qkv, pools) {
            Some(partials) => {
                let kernel = &kernels::attention_merge_flat::KERNEL;
                let bindings = [input.row_info, partials, map, x_q];
                let label = format!("{label}.merge");
                let dispatch = plan.dispatch(label, kernel, params, grid, &bindings);
                dispatch.constants = constants;
            }
            None => {
                let kernel = &kernels::rope_attention_f16_flat::KERNEL;
                let mut bindings = rotated(input, rope, qkv, pools);
                bindings.extend([map, x_q]);
                let constants = whole_constants(plan, &params.attention, input);
                let dispatch = dispatch(plan, label, kernel, params, grid, &bindings);
                dispatch.constants.extend(constants);
            }
        }
        return;
    }
    let (kernel, mut bindings) = call(input, qkv, pools, by, true);
    bindings.extend([map, x_q]);
    dispatch(plan, label, kernel, params, grid, &bindings);
}

/// Whether attention runs on matrices, which give other bits than the portable kernels: then it does in every step. Decode steps have
/// to be fused for it.
fn on_matrices(plan: &Plan, head_dim: u32, pools: KvPools) -> bool {
    plan.features.matrix_attention
        && plan.features.fused
        && pools.kv_type == KvType::F16
        && kernels::paged_attention::fits_matrices(head_dim)
}

/// What a workgroup has.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Row,
    Tile,
    /// A tile, on matrices.
    MatrixTile,
}

impl By {
    fn of(
        plan: &Plan,
        shape: AttentionShape,
        input: AttentionInput,
        pools: KvPools,
        rows: u32,
    ) -> Self {
        if input.pages.is_none() && on_matrices(plan, shape.head_dim, pools) {
            Self::MatrixTile
        } else if rows <= GEMV_ROWS || !kernels::paged_attention::fits_tiles(shape.head_dim) {
            Self::Row
        } else {
            Self::Tile
        }
    }
}

fn params(
    shape: AttentionShape,
    input: AttentionInput,
    pools: KvPools,
    rows: u32,
    by: By,
) -> kernels::paged_attention::Params {
    kernels::paged_attention::Params {
        count: match by {
            By::Row => rows,
            By::Tile | By::MatrixTile => input.num_tiles,
        },
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        stride: shape.stride(),
        table_stride: pools.table_stride,
        window: shape.window,
        scale: (1.0 / f64::from(shape.head_dim).sqrt()) as f32,
    }
}

/// The kernel, and what it reads of the step and the cache.
fn call(
    input: AttentionInput,
    qkv: BufferId,
    pools: KvPools,
    by: By,
    flat: bool,
) -> (&'static Kernel, Vec<BufferId>) {
    let kernel = match (pools.kv_type, by, flat) {
        (_, By::MatrixTile, false) => &kernels::attention_prefill_coop16::KERNEL,
        (_, By::MatrixTile, true) => &kernels::attention_prefill_coop16_flat::KERNEL,
        (KvType::F32, By::Row, false) => &kernels::attention_decode_f32::KERNEL,
        (KvType::F32, By::Row, true) => &kernels::attention_decode_f32_flat::KERNEL,
        (KvType::F32, By::Tile, false) => &kernels::attention_prefill_f32::KERNEL,
        (KvType::F32, By::Tile, true) => &kernels::attention_prefill_f32_flat::KERNEL,
        (KvType::F16, By::Row, false) => &kernels::attention_decode_f16::KERNEL,
        (KvType::F16, By::Row, true) => &kernels::attention_decode_f16_flat::KERNEL,
        (KvType::F16, By::Tile, false) => &kernels::attention_prefill_f16::KERNEL,
        (KvType::F16, By::Tile, true) => &kernels::attention_prefill_f16_flat::KERNEL,
        (KvType::I8, By::Row, false) => &kernels::attention_decode_i8::KERNEL,
        (KvType::I8, By::Row, true) => &kernels::attention_decode_i8_flat::KERNEL,
        (KvType::I8, By::Tile, false) => &kernels::attention_prefill_i8::KERNEL,
        (KvType::I8, By::Tile, true) => &kernels::attention_prefill_i8_flat::KERNEL,
    };
    let mut bindings = vec![input.row_info, input.block_table, qkv, pools.k, pools.v];
    if by != By::Row {
        bindings.push(input.tiles);
    }
    (kernel, bindings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_halves_the_cache_but_for_the_scales() {
        assert_eq!(kv_block_words(KvType::F32, 128), 64 * 128);
        assert_eq!(kv_block_words(KvType::F16, 128), 64 * 64);
        assert_eq!(kv_block_words(KvType::I8, 128), 64 * 33);
        // Whole words for each key.
        assert_eq!(kv_block_words(KvType::I8, 34), 64 * 10);
    }
}
