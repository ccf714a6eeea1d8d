//! Integers and halves in 32-bit words: with the kernels, the only place where bits are moved.
//!
//! A packed row always has [`padded`] elements, zeros after the end. Layouts:
//! - i8: four per word, element 4i in the low byte of word i.
//! - i4: offset binary nibbles n = w + 8 with w in -7..=7. The word of features f..f+8 has feature f + b in the low nibble
//!   and feature f + 4 + b in the high nibble of its byte b, so that its low and its high nibbles are each four
//!   consecutive features: what one word of i8 activations holds.
//! - i5, i6: offset binary n = w + 16 with w in -15..=15, n = w + 32 with w in -31..=31, in two planes. The low four bits are
//!   nibbles, placed as i4's. The high bits, one or two, of feature 4 g + b of each 32 lie in byte b: i5 has bit g of one word,
//!   i6 bits 2 (g % 4) and the next of word g / 4 of two. So a shift and a mask give those of four consecutive features.
//! - multipliers of i4 groups: m in 1..=16, nibble g % 8 of word g / 8 holds m - 1 of group g.
//! - f16: two per word, element 2i in the low half of word i.

use crate::padded;
use half::f16;

/// Largest magnitude of an INT8 value: symmetric, so -128 does not occur.
pub const Q_MAX_I8: i32 = 127;
/// Largest magnitude of an INT4 value: symmetric, so -8 does not occur.
pub const Q_MAX_I4: i32 = 7;
/// Largest magnitude of an INT5 value.
pub const Q_MAX_I5: i32 = 15;
/// Largest magnitude of an INT6 value.
pub const Q_MAX_I6: i32 = 31;
/// Largest multiplier of an INT4 group: 16 * 7 is still an i8.
pub const MULTIPLIER_MAX: u32 = 16;

const I4_OFFSET: i32 = 8;
const NIBBLES_PER_WORD: usize = 8;

/// Words of an i8 row of that many features.
pub const fn i8_row_words(features: usize) -> usize {
    padded(features as u32) as usize / 4
}

/// Words of an i4 row of that many features.
pub const fn i4_row_words(features: usize) -> usize {
    padded(features as u32) as usize / NIBBLES_PER_WORD
}

/// Words of the high bits of a row of that many features: `high_bits` is 1 for i5, 2 for i6.
pub const fn high_row_words(features: usize, high_bits: usize) -> usize {
    padded(features as u32) as usize * high_bits / 32
}

/// Words of an f16 row of that many features.
pub const fn f16_row_words(features: usize) -> usize {
    padded(features as u32) as usize / 2
}

/// Groups of an i4 row of that many features; none where `group_size` is 0.
pub const fn num_groups(features: usize, group_size: usize) -> usize {
    match group_size {
        0 => 0,
        _ => (padded(features as u32) as usize).div_ceil(group_size),
    }
}

/// Words that hold the multipliers of one i4 row.
pub const fn multiplier_row_words(features: usize, group_size: usize) -> usize {
    num_groups(features, group_size).div_ceil(NIBBLES_PER_WORD)
}

/// One row of i8.
pub fn pack_i8(row: &[i8]) -> Vec<u32> {
    let mut words = vec![0; i8_row_words(row.len())];
    for (i, &value) in row.iter().enumerate() {
        words[i / 4] |= u32::from(value as u8) << (8 * (i % 4));
    }
    words
}

/// The first `row.len()` elements of packed i8.
pub fn unpack_i8(words: &[u32], row: &mut [i8]) {
    for (values, &word) in row.chunks_mut(4).zip(words) {
        for (value, byte) in values.iter_mut().zip(word.to_le_bytes()) {
            *value = byte as i8;
        }
    }
}

/// One row of i4. Values lie in -7..=7.
pub fn pack_i4(row: &[i8]) -> Vec<u32> {
    let mut words = vec![0x8888_8888; i4_row_words(row.len())];
    for (i, &value) in row.iter().enumerate() {
        debug_assert!(
            i32::from(value).abs() <= Q_MAX_I4,
            "{value} is not an INT4 value"
        );
        let shift = i4_shift(i);
        let word = &mut words[i / NIBBLES_PER_WORD];
        *word = *word & !(0xf << shift) | ((i32::from(value) + I4_OFFSET) as u32 & 0xf) << shift;
    }
    words
}

/// The first `row.len()` elements of packed i4.
pub fn unpack_i4(words: &[u32], row: &mut [i8]) {
    for (values, &word) in row.chunks_mut(NIBBLES_PER_WORD).zip(words) {
        for (i, value) in values.iter_mut().enumerate() {
            *value = ((word >> i4_shift(i)) & 0xf) as i8 - I4_OFFSET as i8;
        }
    }
}

/// One row of i5 (`high_bits` 1, values in -15..=15) or i6 (2, -31..=31): the words of the nibbles, and of the high bits.
pub fn pack_planes(row: &[i8], high_bits: usize) -> (Vec<u32>, Vec<u32>) {
    let offset = I4_OFFSET << high_bits;
    let mut nibbles = vec![0; i4_row_words(row.len())];
    let mut high = vec![0; high_row_words(row.len(), high_bits)];
    for i in 0..padded(row.len() as u32) as usize {
        let value = row.get(i).map_or(0, |&value| i32::from(value));
        debug_assert!(
            value.abs() < offset,
            "{value} is not an INT{} value",
            4 + high_bits
        );
        let n = (value + offset) as u32;
        nibbles[i / NIBBLES_PER_WORD] |= (n & 0xf) << i4_shift(i);
        let (word, shift) = high_place(i, high_bits);
        high[word] |= (n >> 4) << shift;
    }
    (nibbles, high)
}

/// The first `row.len()` elements of two planes.
pub fn unpack_planes(nibbles: &[u32], high: &[u32], high_bits: usize, row: &mut [i8]) {
    let offset = I4_OFFSET << high_bits;
    let mask = (1 << high_bits) - 1;
    for (i, value) in row.iter_mut().enumerate() {
        let low = (nibbles[i / NIBBLES_PER_WORD] >> i4_shift(i)) & 0xf;
        let (word, shift) = high_place(i, high_bits);
        *value = ((low | ((high[word] >> shift) & mask) << 4) as i32 - offset) as i8;
    }
}

/// Word and bit of feature `i`'s high bits.
const fn high_place(i: usize, high_bits: usize) -> (usize, usize) {
    let (four, per_word) = (i / 4, 8 / high_bits);
    (four / per_word, 8 * (i % 4) + high_bits * (four % per_word))
}

/// Bit of feature `i`'s nibble in its word.
const fn i4_shift(i: usize) -> usize {
    8 * (i % 4) + 4 * (i / 4 % 2)
}

/// The multipliers (1..=16) of one i4 row.
pub fn pack_multipliers(multipliers: &[u32]) -> Vec<u32> {
    let mut words = vec![0; multipliers.len().div_ceil(NIBBLES_PER_WORD)];
    for (g, &m) in multipliers.iter().enumerate() {
        debug_assert!(
            (1..=MULTIPLIER_MAX).contains(&m),
            "multiplier {m} is not in 1..=16"
        );
        words[g / NIBBLES_PER_WORD] |= (m - 1) << (4 * (g % NIBBLES_PER_WORD));
    }
    words
}

/// The multiplier of group `group` of a row.
pub fn multiplier(words: &[u32], group: usize) -> u32 {
    ((words[group / NIBBLES_PER_WORD] >> (4 * (group % NIBBLES_PER_WORD))) & 0xf) + 1
}

/// One row of halves, each f32 rounded to nearest even.
pub fn pack_f16(row: &[f32]) -> Vec<u32> {
    let mut words = vec![0; f16_row_words(row.len())];
    for (i, &value) in row.iter().enumerate() {
        words[i / 2] |= u32::from(f16::from_f32(value).to_bits()) << (16 * (i % 2));
    }
    words
}

/// The first `row.len()` elements of packed halves.
pub fn unpack_f16(words: &[u32], row: &mut [f32]) {
    for (i, value) in row.iter_mut().enumerate() {
        *value = f16::from_bits((words[i / 2] >> (16 * (i % 2))) as u16).to_f32();
    }
}

/// The scale with which `steps` whole steps reach `absmax`. 0 where it would be subnormal, which a GPU may take for 0: all
/// integers are then 0.
pub fn scale_of(absmax: f32, steps: i32) -> f32 {
    let scale = absmax / steps as f32;
    if scale.is_normal() { scale } else { 0.0 }
}

/// The scale that lets the largest of i8 weights be [`Q_MAX_I8`].
pub fn scale_i8(absmax: f32) -> f32 {
    scale_of(absmax, Q_MAX_I8)
}

/// The scale that lets the largest of i4 weights be [`Q_MAX_I4`], in a group of the largest multiplier where there are groups.
pub fn scale_i4(absmax: f32, group_size: usize) -> f32 {
    let multiplier = if group_size > 0 { MULTIPLIER_MAX } else { 1 };
    scale_of(absmax, Q_MAX_I4 * multiplier as i32)
}

/// `w ≈ scale * w_q`, rounded to nearest: the scale of the row and its packed i8.
pub fn quantize_row_i8(row: &[f32]) -> (f32, Vec<u32>) {
    let scale = scale_i8(absmax(row));
    (scale, quantize_row_i8_with_scale(row, scale))
}

/// As [`quantize_row_i8`] with a scale from elsewhere (that of the whole tensor). What it does not reach saturates.
pub fn quantize_row_i8_with_scale(row: &[f32], scale: f32) -> Vec<u32> {
    pack_i8(&round_to_steps(row, scale, Q_MAX_I8))
}

/// `w ≈ scale * m[group] * w_q`, rounded to nearest: the scale of the row, its packed i4 and its packed multipliers.
/// Without groups (`group_size` 0) there are no multipliers.
pub fn quantize_row_i4(row: &[f32], group_size: usize) -> (f32, Vec<u32>, Vec<u32>) {
    let scale = scale_i4(absmax(row), group_size);
    let (words, multipliers) = quantize_row_i4_with_scale(row, group_size, scale);
    (scale, words, multipliers)
}

/// As [`quantize_row_i4`] with a scale from elsewhere (that of the whole tensor). What it does not reach saturates.
pub fn quantize_row_i4_with_scale(
    row: &[f32],
    group_size: usize,
    scale: f32,
) -> (Vec<u32>, Vec<u32>) {
    if group_size == 0 {
        return (pack_i4(&round_to_steps(row, scale, Q_MAX_I4)), Vec::new());
    }
    let mut values = Vec::with_capacity(row.len());
    let mut multipliers = vec![1; num_groups(row.len(), group_size)];
    for (group, m) in row.chunks(group_size).zip(&mut multipliers) {
        // The least multiplier that clips nothing, or the one below where clipping costs less than coarser steps.
        let covers = if scale > 0.0 {
            (absmax(group) / (scale * Q_MAX_I4 as f32)).ceil() as u32
        } else {
            1
        };
        let covers = covers.clamp(1, MULTIPLIER_MAX);
        let below = (covers - 1).max(1);
        *m = if squared_error(group, scale * below as f32)
            < squared_error(group, scale * covers as f32)
        {
            below
        } else {
            covers
        };
        values.extend(round_to_steps(group, scale * *m as f32, Q_MAX_I4));
    }
    (pack_i4(&values), pack_multipliers(&multipliers))
}

/// The largest magnitude; 0 of nothing.
pub fn absmax(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |absmax, w| w.abs().max(absmax))
}

fn squared_error(row: &[f32], scale: f32) -> f32 {
    let values = round_to_steps(row, scale, Q_MAX_I4);
    row.iter()
        .zip(values)
        .map(|(&w, q)| (w - scale * f32::from(q)).powi(2))
        .sum()
}

/// Nearest whole steps, from `-q_max` to `q_max`, ties to even; zeros where the scale is too small to divide by.
pub fn round_to_steps(row: &[f32], scale: f32, q_max: i32) -> Vec<i8> {
    let q_max = q_max as f32;
    let step = |&w: &f32| {
        if scale >= f32::MIN_POSITIVE {
            (w / scale).round_ties_even().clamp(-q_max, q_max) as i8
        } else {
            0
        }
    };
    row.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 9] = [1, 7, 8, 31, 32, 33, 63, 65, 257];

    fn integers(len: usize, q_max: i32) -> Vec<i8> {
        (0..len as i32)
            .map(|i| ((i * 37 + 5) % (2 * q_max + 1) - q_max) as i8)
            .collect()
    }

    #[test]
    fn i8_comes_back_and_its_padding_is_zero() {
        for len in LENGTHS {
            let row = integers(len, 127);
            let mut back = vec![1; padded(len as u32) as usize];
            unpack_i8(&pack_i8(&row), &mut back);
            assert_eq!(back[..len], row);
            assert!(back[len..].iter().all(|&v| v == 0));
        }
        assert_eq!(pack_i8(&[1, -1, -127, 127])[0], 0x7f81_ff01);
    }

    #[test]
    fn i4_comes_back_and_its_padding_is_zero() {
        for len in LENGTHS {
            let row = integers(len, 7);
            let mut back = vec![1; padded(len as u32) as usize];
            unpack_i4(&pack_i4(&row), &mut back);
            assert_eq!(back[..len], row);
            assert!(back[len..].iter().all(|&v| v == 0));
        }
        // Byte b: feature b low, feature 4 + b high, offset by 8.
        assert_eq!(
            pack_i4(&[-7, -6, -5, -4, 1, 2, 3, 7])[..2],
            [0xf4b3_a291, 0x8888_8888]
        );
    }

    #[test]
    fn planes_come_back_and_their_padding_is_zero() {
        for (high_bits, q_max) in [(1, Q_MAX_I5), (2, Q_MAX_I6)] {
            for len in LENGTHS {
                let row = integers(len, q_max);
                let (nibbles, high) = pack_planes(&row, high_bits);
                assert_eq!(nibbles.len(), i4_row_words(len));
                assert_eq!(high.len(), high_row_words(len, high_bits));
                let mut back = vec![1; padded(len as u32) as usize];
                unpack_planes(&nibbles, &high, high_bits, &mut back);
                assert_eq!(back[..len], row);
                assert!(back[len..].iter().all(|&v| v == 0));
            }
        }
        // Of n = w + 16: 1, 2, 3, 4, 17, 18, 19, 31, then 16s.
        let (nibbles, high) = pack_planes(&[-15, -14, -13, -12, 1, 2, 3, 15], 1);
        assert_eq!(nibbles, [0xf4_33_22_11, 0, 0, 0]);
        assert_eq!(high, [0xfe_fe_fe_fe]);
        // Of n = w + 32: 1, 2, 3, 4, 33, 49, 63, 16, then 32s.
        let (nibbles, high) = pack_planes(&[-31, -30, -29, -28, 1, 17, 31, -16], 2);
        assert_eq!(nibbles, [0x04_f3_12_11, 0, 0, 0]);
        assert_eq!(high, [0xa4_ac_ac_a8, 0xaaaa_aaaa]);
    }

    #[test]
    fn a_shift_and_a_mask_give_four_high_bits() {
        for high_bits in [1, 2] {
            let row = integers(96, (I4_OFFSET << high_bits) - 1);
            let (nibbles, high) = pack_planes(&row, high_bits);
            for (four, values) in row.chunks_exact(4).enumerate() {
                let (word, turn) = (four * high_bits / 8, four * high_bits % 8);
                let mask = ((1 << high_bits) - 1) * 0x0101_0101;
                let low = (nibbles[four / 2] >> (4 * (four % 2))) & 0x0f0f_0f0f;
                let n = low | ((high[word] >> turn) & mask) << 4;
                let offset = 128 - (I4_OFFSET << high_bits) as u32;
                let bytes = (n + offset * 0x0101_0101) ^ 0x8080_8080;
                assert_eq!(bytes, pack_i8(values)[0]);
            }
        }
    }

    #[test]
    fn multipliers_come_back() {
        let multipliers: Vec<u32> = (1..=16).chain([1, 16, 7]).collect();
        let words = pack_multipliers(&multipliers);
        assert_eq!(words[0], 0x7654_3210);
        assert_eq!(
            (0..19).map(|g| multiplier(&words, g)).collect::<Vec<_>>(),
            multipliers
        );
    }

    #[test]
    fn halves_come_back_and_ties_go_to_even() {
        let row = [
            0.0,
            -1.5,
            65504.0,
            6e-8,
            1.0 + 1.0 / 2048.0,
            1.0 + 3.0 / 2048.0,
            f32::INFINITY,
        ];
        let mut back = [9.0; 8];
        unpack_f16(&pack_f16(&row), &mut back);
        assert_eq!(
            back,
            [
                0.0,
                -1.5,
                65504.0,
                5.960_464_5e-8,
                1.0,
                1.0 + 2.0 / 1024.0,
                f32::INFINITY,
                0.0
            ]
        );
        assert_eq!(pack_f16(&row).len(), 16);
    }

    #[test]
    fn i8_rounds_to_nearest_and_ties_go_to_even() {
        let (scale, words) = quantize_row_i8(&[127.0, 0.5, 1.5, -2.5, -126.6]);
        let mut back = [0; 5];
        unpack_i8(&words, &mut back);
        assert_eq!((scale, back), (1.0, [127, 0, 2, -2, -127]));
        assert_eq!(quantize_row_i8(&[0.0; 3]), (0.0, vec![0; 8]));
        assert_eq!(quantize_row_i8_with_scale(&[300.0, -300.0], 1.0)[0], 0x817f);
    }

    #[test]
    fn i4_without_groups_uses_the_whole_range() {
        let (scale, words, multipliers) = quantize_row_i4(&[-14.0, 3.0, 14.0, 1.0, 5.0], 0);
        let mut back = [0; 5];
        unpack_i4(&words, &mut back);
        assert_eq!(
            (scale, back, multipliers),
            (2.0, [-7, 2, 7, 0, 2], Vec::new())
        );
    }

    #[test]
    fn groups_cut_the_error_of_rows_with_outliers() {
        for group_size in [32, 64, 128] {
            let mut row: Vec<f32> = (0..257)
                .map(|i| (i * 29 % 101) as f32 / 50.0 - 1.0)
                .collect();
            row[40] = 50.0;
            let error = |group_size: usize| {
                let (scale, words, multipliers) = quantize_row_i4(&row, group_size);
                assert_eq!(
                    multipliers.len(),
                    multiplier_row_words(row.len(), group_size)
                );
                let mut back = vec![0; row.len()];
                unpack_i4(&words, &mut back);
                let m = |i: usize| {
                    i.checked_div(group_size)
                        .map_or(1, |g| multiplier(&multipliers, g))
                };
                (0..row.len())
                    .map(|i| (row[i] - scale * (m(i) as i32 * i32::from(back[i])) as f32).powi(2))
                    .sum::<f32>()
            };
            assert!(
                error(group_size) < 0.7 * error(0),
                "{group_size}: {} and {}",
                error(group_size),
                error(0)
            );
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_in_every_format() {
        // The last is so small that the scale is subnormal.
        for value in [0.0, 1e-40] {
            for group_size in [0, 32, 128] {
                let (scale, words, multipliers) = quantize_row_i4(&[value; 40], group_size);
                assert_eq!((scale, words), (0.0, vec![0x8888_8888; 8]));
                assert!(multipliers.iter().all(|&m| m == 0));
            }
            assert_eq!(quantize_row_i8(&[value; 40]), (0.0, vec![0; 16]));
        }
    }
}
