//! How the KV pools hold keys and values, in each of their types: pools_f32.wgsl, pools_f16.wgsl, pools_i8.wgsl.
//!
//! A pool is [pages, kv_heads] blocks. A block holds the 64 keys, or the 64 values, of one kv head in one page.

use crate::PAGE_SIZE;
use crate::pack::{self, Q_MAX_I8};
use crate::quantize::quantize_dynamic::{self, Params};
use half::f16;

/// A type of KV pool: what a block is. Head dimensions are even.
pub trait KvFormat {
    /// Words of a block.
    fn block_words(head_dim: usize) -> usize;

    /// Puts the features of one key, or one value, into a block.
    fn write(block: &mut [u32], key: usize, features: &[f32]);

    /// What a block holds of one key, or one value.
    fn read(block: &[u32], key: usize, features: &mut [f64]);
}

/// `[64, head_dim]` f32.
pub struct F32;

/// `[64, head_dim]` halves, each value rounded to the nearest.
pub struct F16;

/// `[64, ceil(head_dim / 4)]` words of four i8, then `[64]` f32: the integers and the scale of each key, as
/// `quantize_dynamic` makes them of a row.
pub struct I8;

impl KvFormat for F32 {
    fn block_words(head_dim: usize) -> usize {
        PAGE_SIZE as usize * head_dim
    }

    fn write(block: &mut [u32], key: usize, features: &[f32]) {
        let words = &mut block[key * features.len()..][..features.len()];
        words.copy_from_slice(bytemuck::cast_slice(features));
    }

    fn read(block: &[u32], key: usize, features: &mut [f64]) {
        let words = &block[key * features.len()..];
        for (feature, &word) in features.iter_mut().zip(words) {
            *feature = f32::from_bits(word).into();
        }
    }
}

impl KvFormat for F16 {
    fn block_words(head_dim: usize) -> usize {
        PAGE_SIZE as usize * head_dim / 2
    }

    fn write(block: &mut [u32], key: usize, features: &[f32]) {
        let halves: &mut [f16] = bytemuck::cast_slice_mut(block);
        for (half, &feature) in halves[key * features.len()..].iter_mut().zip(features) {
            *half = f16::from_f32(feature);
        }
    }

    fn read(block: &[u32], key: usize, features: &mut [f64]) {
        let halves: &[f16] = &bytemuck::cast_slice(block)[key * features.len()..];
        for (feature, &half) in features.iter_mut().zip(halves) {
            *feature = half.into();
        }
    }
}

impl I8 {
    const fn row_words(head_dim: usize) -> usize {
        head_dim.div_ceil(4)
    }

    /// Word of a block with the scale of that key.
    const fn scale_at(key: usize, head_dim: usize) -> usize {
        PAGE_SIZE as usize * Self::row_words(head_dim) + key
    }
}

impl KvFormat for I8 {
    fn block_words(head_dim: usize) -> usize {
        PAGE_SIZE as usize * (Self::row_words(head_dim) + 1)
    }

    fn write(block: &mut [u32], key: usize, features: &[f32]) {
        let params = Params::new(1, features.len() as u32, Q_MAX_I8 as u32);
        let (scale, integers) = quantize_dynamic::quantize_row(&params, features);
        let words = Self::row_words(features.len());
        block[key * words..][..words].copy_from_slice(&pack::pack_i8(&integers)[..words]);
        block[Self::scale_at(key, features.len())] = scale.to_bits();
    }

    fn read(block: &[u32], key: usize, features: &mut [f64]) {
        let head_dim = features.len();
        let scale = f64::from(f32::from_bits(block[Self::scale_at(key, head_dim)]));
        let mut integers = vec![0; head_dim];
        pack::unpack_i8(&block[key * Self::row_words(head_dim)..], &mut integers);
        for (feature, integer) in features.iter_mut().zip(integers) {
            *feature = scale * f64::from(integer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back of two keys of a block.
    fn round_trip<F: KvFormat>(keys: [(usize, &[f32]); 2]) -> [Vec<f64>; 2] {
        let mut block = vec![0; F::block_words(keys[0].1.len())];
        for (key, features) in keys {
            F::write(&mut block, key, features);
        }
        keys.map(|(key, features)| {
            let mut read = vec![f64::NAN; features.len()];
            F::read(&block, key, &mut read);
            read
        })
    }

    #[test]
    fn keys_come_back_in_each_type() {
        let (a, b): (&[f32], &[f32]) = (&[1.0, -2.5, 0.0, 0.75, 3.0, -0.25], &[5.0; 6]);
        let exact = [a, b].map(|keys| keys.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
        assert_eq!(round_trip::<F32>([(63, a), (0, b)]), exact);
        assert_eq!(round_trip::<F16>([(63, a), (0, b)]), exact);
        for (read, exact) in round_trip::<I8>([(63, a), (0, b)]).iter().zip(&exact) {
            let step = exact.iter().fold(0f64, |max, x| max.max(x.abs())) / 127.0;
            for (read, exact) in read.iter().zip(exact) {
                assert!((read - exact).abs() <= 0.51 * step, "{read} is not {exact}");
            }
        }
    }

    #[test]
    fn a_block_of_i8_is_rows_of_words_and_then_the_scales() {
        let mut block = vec![7; I8::block_words(6)];
        assert_eq!(block.len(), 64 * 2 + 64);
        I8::write(&mut block, 2, &[127.0, -1.0, 2.0, 0.0, -127.0, 3.0]);
        assert_eq!(block[4..6], [0x0002_ff7f, 0x0000_0381]);
        assert_eq!(block[128 + 2], 1f32.to_bits());
        assert_eq!(block.iter().filter(|&&word| word != 7).count(), 3);
    }
}
