//! What the attention kernels share: paged_attention.wgsl, and what they write: output_float.wgsl, output_flat.wgsl.

use super::pools::{F16, KvFormat};
use crate::kernel::{Access, Call, Kernel, div_ceil};
use crate::quantize::flatten_quantize;
use crate::{PAGE_SIZE, pack};
use bytemuck::{Pod, Zeroable};
use half::f16;
use rayon::prelude::*;
use std::ops::{Range, RangeInclusive};

/// The parameters of attention_decode_* and attention_prefill_*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    /// Rows of a decode, tiles of a prefill.
    pub count: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// Even, and at most 256.
    pub head_dim: u32,
    /// Features of a row of qkv.
    pub stride: u32,
    /// Pages of a row of the block table.
    pub table_stride: u32,
    /// Keys that a row sees, its own included; 0 for all.
    pub window: u32,
    pub scale: f32,
}

/// The parameters of attention_decode_*_flat and attention_prefill_*_flat.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FlatParams {
    /// With a head_dim that is a multiple of 4.
    pub attention: Params,
    /// heads * head_dim and the extra parts.
    pub flat_features: u32,
    /// 7 or 127.
    pub q_max: u32,
    /// q_max / threshold.
    pub inv_scale: f32,
}

/// Most rows of a tile of attention_prefill_*.
pub const TILE: u32 = 32;

/// Whether attention_prefill_* takes such heads; attention_decode_* takes all.
pub const fn fits_tiles(head_dim: u32) -> bool {
    head_dim <= 128
}

/// Whether the kernels on matrices of f16 take such heads.
pub const fn fits_matrices(head_dim: u32) -> bool {
    head_dim.is_multiple_of(16) && head_dim <= 128
}

/// Workgroups in x, y, z.
pub fn grid(params: &Params) -> [u32; 3] {
    [params.heads, params.count, 1]
}

/// The kernel `attention_decode_*` for pools of type `F`.
pub(super) const fn decode<F: KvFormat>(
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
            Access::Read,
            Access::Read,
            Access::ReadWrite,
        ],
        params_bytes: size_of::<Params>(),
        subgroups: false,
        run: |call| {
            let params: Params = call.params();
            let y = call.write(6);
            float::<F>(&params, 0..params.count, &Inputs::of(call), y);
        },
    }
}

/// The kernel `attention_prefill_*` for pools of type `F`.
pub(super) const fn prefill<F: KvFormat>(
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
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
        ],
        params_bytes: size_of::<Params>(),
        subgroups: false,
        run: |call| {
            let params: Params = call.params();
            let y = call.write(7);
            for rows in rows_of_tiles(call.read(6), &params) {
                float::<F>(&params, rows, &Inputs::of(call), y);
            }
        },
    }
}

/// The kernel `attention_decode_*_flat` for pools of type `F`.
pub(super) const fn decode_flat<F: KvFormat>(
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
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
        ],
        params_bytes: size_of::<FlatParams>(),
        subgroups: false,
        run: |call| {
            let params: FlatParams = call.params();
            let x_q = call.write(7);
            let rows = 0..params.attention.count;
            flat::<F>(&params, rows, &Inputs::of(call), call.read(6), x_q);
        },
    }
}

/// The kernel `attention_prefill_*_flat` for pools of type `F`.
pub(super) const fn prefill_flat<F: KvFormat>(
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
            Access::Read,
            Access::Read,
            Access::Read,
            Access::Read,
            Access::ReadWrite,
        ],
        params_bytes: size_of::<FlatParams>(),
        subgroups: false,
        run: |call| {
            let params: FlatParams = call.params();
            let x_q = call.write(8);
            for rows in rows_of_tiles(call.read(6), &params.attention) {
                flat::<F>(&params, rows, &Inputs::of(call), call.read(7), x_q);
            }
        },
    }
}

/// The kernel `attention_prefill_coop16`.
pub(super) const fn prefill_coop16(name: &'static str, source: &'static [&'static str]) -> Kernel {
    Kernel {
        subgroups: true,
        run: |call| {
            let params: Params = call.params();
            let y = call.write(7);
            let (params, queries) = rounded_queries(&params, call.read(3));
            let inputs = Inputs {
                qkv: &queries,
                ..Inputs::of(call)
            };
            for rows in rows_of_tiles(call.read(6), &params) {
                float::<F16>(&params, rows, &inputs, y);
            }
        },
        ..prefill::<F16>(name, source)
    }
}

/// The kernel `attention_prefill_coop16_flat`.
pub(super) const fn prefill_coop16_flat(
    name: &'static str,
    source: &'static [&'static str],
) -> Kernel {
    Kernel {
        subgroups: true,
        run: |call| {
            let params: FlatParams = call.params();
            let x_q = call.write(8);
            let (attention, queries) = rounded_queries(&params.attention, call.read(3));
            let params = FlatParams {
                attention,
                ..params
            };
            let inputs = Inputs {
                qkv: &queries,
                ..Inputs::of(call)
            };
            for rows in rows_of_tiles(call.read(6), &params.attention) {
                flat::<F16>(&params, rows, &inputs, call.read(7), x_q);
            }
        },
        ..prefill_flat::<F16>(name, source)
    }
}

/// What the kernels on matrices of f16 attend with: q scaled and rounded to halves, and so a scale of 1.
pub(super) fn rounded_queries(params: &Params, qkv: &[f32]) -> (Params, Vec<f32>) {
    let largest = f32::from(f16::MAX);
    let rounded = |&q: &f32| f32::from(f16::from_f32((params.scale * q).clamp(-largest, largest)));
    let queries = qkv.iter().map(rounded).collect();
    let params = Params {
        scale: 1.0,
        ..*params
    };
    (params, queries)
}

/// The bindings 1 to 5, which all of them have.
pub(super) struct Inputs<'a> {
    pub row_info: &'a [[u32; 2]],
    pub block_table: &'a [u32],
    pub qkv: &'a [f32],
    pub k_pool: &'a [u32],
    pub v_pool: &'a [u32],
}

impl<'a> Inputs<'a> {
    fn of(call: &Call<'a>) -> Self {
        Self {
            row_info: call.read(1),
            block_table: call.read(2),
            qkv: call.read(3),
            k_pool: call.read(4),
            v_pool: call.read(5),
        }
    }
}

fn rows_of_tiles(tiles: &[[u32; 2]], params: &Params) -> impl Iterator<Item = Range<u32>> {
    let tiles = &tiles[..params.count as usize];
    tiles.iter().map(|&[first, count]| first..first + count)
}

/// Attention of some of the rows, to their place in y [rows, heads * head_dim].
pub(super) fn float<F: KvFormat>(
    params: &Params,
    rows: Range<u32>,
    inputs: &Inputs<'_>,
    y: &mut [f32],
) {
    let first = (rows.start * params.heads * params.head_dim) as usize;
    let attended = attend::<F>(params, rows, inputs);
    y[first..][..attended.len()].copy_from_slice(&attended);
}

/// As [`float`], then `flatten_quantize`: to their place in x_q [rows, padded(flat_features) / 4].
pub(super) fn flat<F: KvFormat>(
    params: &FlatParams,
    rows: Range<u32>,
    inputs: &Inputs<'_>,
    map: &[u32],
    x_q: &mut [u32],
) {
    let words = pack::i8_row_words(params.flat_features as usize);
    let quantize = flatten_quantize::Params {
        rows: rows.len() as u32,
        features: params.attention.heads * params.attention.head_dim,
        flat_features: params.flat_features,
        q_max: params.q_max,
        inv_scale: params.inv_scale,
    };
    let x_q = &mut x_q[rows.start as usize * words..];
    let y = attend::<F>(&params.attention, rows, inputs);
    flatten_quantize::reference(&quantize, &y, map, x_q);
}

/// The definition of attention, for some of the rows: a softmax over all visible keys at once, in f64.
fn attend<F: KvFormat>(params: &Params, rows: Range<u32>, inputs: &Inputs<'_>) -> Vec<f32> {
    let (heads, head_dim) = (params.heads as usize, params.head_dim as usize);
    let start = rows.start as usize * heads;
    let mut y = vec![0f32; rows.len() * heads * head_dim];
    let of_head = |(i, y): (usize, &mut [f32])| {
        let (row, head) = ((start + i) / heads, (start + i) % heads);
        let (first, position) = visible(params, inputs.row_info[row]);
        let (_, sum, o) = partial::<F>(params, inputs, row, head, first..=position);
        for (y, o) in y.iter_mut().zip(o) {
            *y = (o / sum) as f32;
        }
    };
    y.par_chunks_mut(head_dim).enumerate().for_each(of_head);
    y
}

/// The first and the last key that a row sees.
pub(super) fn visible(params: &Params, [_, position]: [u32; 2]) -> (u32, u32) {
    let first = if params.window == 0 {
        0
    } else {
        (position + 1).saturating_sub(params.window)
    };
    (first, position)
}

/// The largest score of some keys, the sum of their weights against it, and that of their weighted values.
pub(super) fn partial<F: KvFormat>(
    params: &Params,
    inputs: &Inputs<'_>,
    row: usize,
    head: usize,
    keys: RangeInclusive<u32>,
) -> (f64, f64, Vec<f64>) {
    let (heads, head_dim) = (params.heads as usize, params.head_dim as usize);
    let block_words = F::block_words(head_dim);
    let kv_head = head / (heads / params.kv_heads as usize);
    let [sequence, _] = inputs.row_info[row];
    let q = &inputs.qkv[row * params.stride as usize + head * head_dim..][..head_dim];
    let read = |pool: &[u32], key: u32, features: &mut [f64]| {
        let page = sequence * params.table_stride + key / PAGE_SIZE;
        let page = inputs.block_table[page as usize] as usize;
        let block = (page * params.kv_heads as usize + kv_head) * block_words;
        let key = (key % PAGE_SIZE) as usize;
        F::read(&pool[block..][..block_words], key, features);
    };
    let mut features = vec![0f64; head_dim];
    let scores: Vec<f64> = keys
        .clone()
        .map(|key| {
            read(inputs.k_pool, key, &mut features);
            let dot: f64 = q
                .iter()
                .zip(&features)
                .map(|(&q, k)| f64::from(q) * k)
                .sum();
            f64::from(params.scale) * dot
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    let mut o = vec![0f64; head_dim];
    for (key, score) in keys.zip(scores) {
        let p = libm::exp(score - max);
        sum += p;
        read(inputs.v_pool, key, &mut features);
        for (o, v) in o.iter_mut().zip(&features) {
            *o += p * v;
        }
    }
    (max, sum, o)
}

/// The tiles of attention_prefill_* for these rows: as long as rows follow each other in one sequence, eight to a tile.
pub fn tiles(row_info: &[[u32; 2]]) -> Vec<[u32; 2]> {
    let mut tiles: Vec<[u32; 2]> = Vec::new();
    for (row, &[sequence, position]) in row_info.iter().enumerate() {
        match tiles.last_mut() {
            Some([_, count])
                if *count < TILE && row_info[row - 1] == [sequence, position.wrapping_sub(1)] =>
            {
                *count += 1
            }
            _ => tiles.push([row as u32, 1]),
        }
    }
    tiles
}

/// Most tiles that that many rows of that many sequences can need.
pub fn max_tiles(rows: u32, sequences: u32) -> u32 {
    (div_ceil(rows, TILE) + sequences.saturating_sub(1)).min(rows)
}

#[cfg(test)]
mod tests {
    use super::super::pools::F32;
    use super::*;

    #[test]
    fn a_row_averages_the_values_that_it_sees() {
        let params = Params {
            count: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            stride: 8,
            table_stride: 2,
            window: 2,
            scale: 0.5,
        };
        // Position 64 sees keys 63 of page 1 and 64, the first key of page 0.
        let (mut k_pool, mut v_pool) = ([100f32; 2 * 64 * 2], [100f32; 2 * 64 * 2]);
        k_pool[(64 + 63) * 2..].copy_from_slice(&[0.0, 0.0]);
        v_pool[(64 + 63) * 2..].copy_from_slice(&[1.0, 10.0]);
        k_pool[..2].copy_from_slice(&[2.0 * 3f32.ln(), 0.0]);
        v_pool[..2].copy_from_slice(&[5.0, 2.0]);
        // Head 0 scores 0 and ln 3, weights 1/4 and 3/4; head 1 scores both 0.
        let qkv = [1.0, 7.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0];
        let inputs = Inputs {
            row_info: &[[0, 64]],
            block_table: &[1, 0],
            qkv: &qkv,
            k_pool: bytemuck::cast_slice(&k_pool),
            v_pool: bytemuck::cast_slice(&v_pool),
        };
        let y = attend::<F32>(&params, 0..1, &inputs);
        for (y, expected) in y.iter().zip([4.0, 4.0, 3.0, 6.0]) {
            assert!((y - expected).abs() < 1e-6, "{y} is not {expected}");
        }
    }

    #[test]
    fn tiles_break_at_sequences_gaps_and_their_size() {
        let first = TILE + 3;
        let mut row_info: Vec<[u32; 2]> = (0..first).map(|position| [0, 60 + position]).collect();
        row_info.extend([[1, 71], [1, 72], [1, 74], [1, 75]]);
        let expected = [[0, TILE], [TILE, 3], [first, 2], [first + 2, 2]];
        assert_eq!(tiles(&row_info), expected);
        assert!(tiles(&[]).is_empty());
    }

    #[test]
    fn max_tiles_suffice_for_the_worst_split() {
        let row_info: Vec<[u32; 2]> = [(0, TILE + 1), (1, 1), (2, TILE + 1)]
            .into_iter()
            .flat_map(|(sequence, rows)| (0..rows).map(move |position| [sequence, position]))
            .collect();
        assert_eq!(tiles(&row_info).len(), 5);
        assert!(max_tiles(2 * TILE + 3, 3) >= 5);
        assert_eq!(max_tiles(1, 1), 1);
    }
}
