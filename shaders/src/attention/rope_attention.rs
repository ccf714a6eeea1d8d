//! What the rope_attention_* kernels and attention_merge* share: rope_attention.wgsl, merge.wgsl.

use super::kv_append;
use super::paged_attention::{FlatParams, Inputs, Params, partial, visible};
use super::pools::F16;
use super::rope;
use crate::PAGE_SIZE;
use crate::kernel::{Call, Constant};
use crate::quantize::flatten_quantize;

/// The widest head that the kernels take; it is a multiple of [`HEAD_DIM_STEP`].
pub const MOST_HEAD_DIM: u32 = 128;
pub const HEAD_DIM_STEP: u32 = 8;

/// Words of the partials of `rows` rows, for so many pages of each.
pub fn partial_words(rows: u32, heads: u32, head_dim: u32, slots: u32) -> u64 {
    u64::from(rows * heads) * u64::from(slots) * u64::from(head_dim + 2)
}

/// The value of the override of rope_attention_f16* and attention_merge*: a size that is known leaves less text.
pub fn constants(params: &Params) -> [Constant; 1] {
    [("HEAD_DIM", params.head_dim)]
}

/// The value of the override `TEAMS` of rope_attention_f16 and rope_attention_f16_flat that takes more than 16 KiB of a workgroup's memory.
pub const WIDE_TEAMS: Constant = ("TEAMS", 4);

/// `rope` of a copy of qkv and `kv_append` of it, and then `attend` with what attention reads.
pub(super) fn rotated_and_appended(
    params: &Params,
    call: &mut Call<'_>,
    attend: impl FnOnce(&Inputs<'_>),
) {
    let (row_info, block_table) = (call.read(1), call.read(2));
    let mut qkv = call.read::<f32>(3).to_vec();
    let rotation = rope::Params {
        rows: params.count,
        num_heads: params.heads + params.kv_heads,
        head_dim: params.head_dim,
        stride: params.stride,
    };
    rope::reference(&rotation, row_info, call.read(4), &mut qkv);
    let append = kv_append::Params {
        rows: params.count,
        kv_heads: params.kv_heads,
        head_dim: params.head_dim,
        stride: params.stride,
        k_offset: params.heads * params.head_dim,
        v_offset: (params.heads + params.kv_heads) * params.head_dim,
        table_stride: params.table_stride,
    };
    let (k_pool, v_pool) = (call.write(5), call.write(6));
    kv_append::reference::<F16>(&append, row_info, block_table, &qkv, k_pool, v_pool);
    attend(&Inputs {
        row_info,
        block_table,
        qkv: &qkv,
        k_pool,
        v_pool,
    });
}

/// The definition of `rope_attention_f16_split`, after `rope` and `kv_append`.
pub(super) fn split(params: &Params, inputs: &Inputs<'_>, partials: &mut [f32]) {
    let (heads, head_dim) = (params.heads as usize, params.head_dim as usize);
    let of_head = slots(params, partials) * (head_dim + 2);
    for row in 0..params.count as usize {
        let (first, position) = visible(params, inputs.row_info[row]);
        for head in 0..heads {
            let partials = &mut partials[(row * heads + head) * of_head..][..of_head];
            let pages = first / PAGE_SIZE..=position / PAGE_SIZE;
            for (page, slot) in pages.zip(partials.chunks_exact_mut(head_dim + 2)) {
                let keys =
                    first.max(page * PAGE_SIZE)..=position.min(page * PAGE_SIZE + PAGE_SIZE - 1);
                let (m, l, o) = partial::<F16>(params, inputs, row, head, keys);
                slot[0] = m as f32;
                slot[1] = l as f32;
                for (slot, o) in slot[2..].iter_mut().zip(o) {
                    *slot = o as f32;
                }
            }
        }
    }
}

/// The definition of `attention_merge`: y [rows, heads * head_dim].
pub(super) fn merge(params: &Params, row_info: &[[u32; 2]], partials: &[f32]) -> Vec<f32> {
    let (heads, head_dim) = (params.heads as usize, params.head_dim as usize);
    let of_head = slots(params, partials) * (head_dim + 2);
    let mut y = Vec::new();
    for row in 0..params.count as usize {
        let (first, position) = visible(params, row_info[row]);
        let used = (position / PAGE_SIZE - first / PAGE_SIZE + 1) as usize;
        for head in 0..heads {
            let partials = &partials[(row * heads + head) * of_head..][..of_head];
            let slots = || partials.chunks_exact(head_dim + 2).take(used);
            let max = slots().fold(f64::NEG_INFINITY, |max, slot| max.max(f64::from(slot[0])));
            let factor = |slot: &[f32]| libm::exp(f64::from(slot[0]) - max);
            let l: f64 = slots().map(|slot| factor(slot) * f64::from(slot[1])).sum();
            y.extend((0..head_dim).map(|d| {
                let o = slots().map(|slot| factor(slot) * f64::from(slot[2 + d]));
                (o.sum::<f64>() / l) as f32
            }));
        }
    }
    y
}

/// What `flatten_quantize` is told of attention's output.
pub(super) fn quantize(params: &FlatParams) -> flatten_quantize::Params {
    flatten_quantize::Params {
        rows: params.attention.count,
        features: params.attention.heads * params.attention.head_dim,
        flat_features: params.flat_features,
        q_max: params.q_max,
        inv_scale: params.inv_scale,
    }
}

/// Pages that there is room for in the partials of a head.
fn slots(params: &Params, partials: &[f32]) -> usize {
    partials.len() / (params.count * params.heads * (params.head_dim + 2)) as usize
}
