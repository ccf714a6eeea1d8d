//! What the attention kernels share: paged_attention.wgsl.

use crate::PAGE_SIZE;
use crate::kernel::div_ceil;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::ops::Range;

/// The parameters of attention_decode_*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct DecodeParams {
    pub rows: u32,
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

/// The parameters of attention_prefill_*: those of decode, and the number of tiles.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct PrefillParams {
    pub rows: u32,
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
    pub num_tiles: u32,
}

/// Most rows of a tile of attention_prefill_*.
pub const TILE: u32 = 8;

impl PrefillParams {
    /// The same attention without tiles.
    pub fn decode(&self) -> DecodeParams {
        let Self {
            rows,
            heads,
            kv_heads,
            head_dim,
            stride,
            table_stride,
            window,
            scale,
            num_tiles: _,
        } = *self;
        DecodeParams {
            rows,
            heads,
            kv_heads,
            head_dim,
            stride,
            table_stride,
            window,
            scale,
        }
    }
}

/// Workgroups in x, y, z.
pub fn decode_grid(params: &DecodeParams) -> [u32; 3] {
    [params.heads, params.rows, 1]
}

/// Workgroups in x, y, z.
pub fn prefill_grid(params: &PrefillParams) -> [u32; 3] {
    [params.heads, params.num_tiles, 1]
}

/// The definition of attention, for some of the rows: a softmax over all visible keys at once, in f64.
pub(super) fn rows<T: Copy + Sync + Into<f64>>(
    params: &DecodeParams,
    rows: Range<u32>,
    row_info: &[[u32; 2]],
    block_table: &[u32],
    qkv: &[f32],
    k_pool: &[T],
    v_pool: &[T],
    y: &mut [f32],
) {
    let (heads, head_dim) = (params.heads as usize, params.head_dim as usize);
    let start = rows.start as usize * heads;
    let heads_of_rows = rows.len() * heads;
    let of_head = |(i, y): (usize, &mut [f32])| {
        let (row, head) = ((start + i) / heads, (start + i) % heads);
        let kv_head = head / (heads / params.kv_heads as usize);
        let [sequence, position] = row_info[row];
        let q = &qkv[row * params.stride as usize + head * head_dim..][..head_dim];
        let first = if params.window == 0 {
            0
        } else {
            (position + 1).saturating_sub(params.window)
        };
        let start_of = |key: u32| {
            let page =
                block_table[(sequence * params.table_stride + key / PAGE_SIZE) as usize] as usize;
            ((page * params.kv_heads as usize + kv_head) * PAGE_SIZE as usize
                + (key % PAGE_SIZE) as usize)
                * head_dim
        };
        let scores: Vec<f64> = (first..=position)
            .map(|key| {
                let k = &k_pool[start_of(key)..][..head_dim];
                f64::from(params.scale)
                    * q.iter()
                        .zip(k)
                        .map(|(&q, &k)| f64::from(q) * k.into())
                        .sum::<f64>()
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let mut o = vec![0f64; head_dim];
        for (key, score) in (first..=position).zip(scores) {
            let p = (score - max).exp();
            sum += p;
            let v = &v_pool[start_of(key)..][..head_dim];
            for d in 0..head_dim {
                o[d] += p * v[d].into();
            }
        }
        for d in 0..head_dim {
            y[d] = (o[d] / sum) as f32;
        }
    };
    y[start * head_dim..][..heads_of_rows * head_dim]
        .par_chunks_mut(head_dim)
        .enumerate()
        .for_each(of_head);
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
    use super::*;

    #[test]
    fn a_row_averages_the_values_that_it_sees() {
        let params = DecodeParams {
            rows: 1,
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
        let mut y = [0f32; 4];
        rows(
            &params,
            0..1,
            &[[0, 64]],
            &[1, 0],
            &qkv,
            &k_pool,
            &v_pool,
            &mut y,
        );
        for (y, expected) in y.iter().zip([4.0, 4.0, 3.0, 6.0]) {
            assert!((y - expected).abs() < 1e-6, "{y} is not {expected}");
        }
    }

    #[test]
    fn tiles_break_at_sequences_gaps_and_eight_rows() {
        let mut row_info: Vec<[u32; 2]> = (0..11).map(|position| [0, 60 + position]).collect();
        row_info.extend([[1, 71], [1, 72], [1, 74], [1, 75]]);
        assert_eq!(tiles(&row_info), [[0, 8], [8, 3], [11, 2], [13, 2]]);
        assert!(tiles(&[]).is_empty());
    }

    #[test]
    fn max_tiles_suffice_for_the_worst_split() {
        let row_info: Vec<[u32; 2]> = [(0, 9), (1, 1), (2, 9)]
            .into_iter()
            .flat_map(|(sequence, rows)| (0..rows).map(move |position| [sequence, position]))
            .collect();
        assert_eq!(tiles(&row_info).len(), 5);
        assert!(max_tiles(19, 3) >= 5);
        assert_eq!(max_tiles(1, 1), 1);
    }
}
