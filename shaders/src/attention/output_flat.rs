//! Which flatten maps attention can follow itself, and what it needs to find its words: output_flat.wgsl.

use crate::pack;

/// Of an extra channel that is always zero: part 255.
const NO_PART: u32 = 255;

/// The map of a static input ([`crate::quantize::flatten_quantize`]) with the runs of the heads appended, as the
/// `attention_*_flat` kernels bind it: `heads + 1` word indices in a row of x_q. Head h writes the words `runs[h]..runs[h + 1]`.
///
/// `None` where a word would have two writers, so that `flatten_quantize` must follow attention: `head_dim` is not a multiple
/// of 4, or some word of extra channels has parts of two heads, or the heads' words do not ascend.
pub fn map_with_runs(map: &[u32], heads: u32, head_dim: u32) -> Option<Vec<u32>> {
    let features = (heads * head_dim) as usize;
    if !head_dim.is_multiple_of(4) || map.len() < features {
        return None;
    }
    let first_word = features as u32 / 4;
    let mut runs = Vec::with_capacity(heads as usize + 1);
    for (word, entries) in (first_word..).zip(map[features..].chunks(4)) {
        let mut sources = entries
            .iter()
            .filter(|&entry| entry >> 24 != NO_PART)
            .map(|entry| (entry & 0x00ff_ffff) / head_dim);
        // A word of zeros is anybody's.
        let Some(head) = sources.next() else { continue };
        // The head whose run is the last that was opened.
        let open = (runs.len() as u32).saturating_sub(1);
        if head >= heads || head < open || sources.any(|other| other != head) {
            return None;
        }
        while runs.len() <= head as usize {
            runs.push(if runs.is_empty() { first_word } else { word });
        }
    }
    if runs.is_empty() {
        runs.push(first_word);
    }
    // Heads without extra parts after the last one that has some, and the end of the row.
    runs.resize(heads as usize + 1, pack::i8_row_words(map.len()) as u32);
    Some([map, &runs].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::flatten_quantize::extra;

    /// The runs of three heads of four channels with these extra channels.
    fn runs(extras: &[u32]) -> Option<Vec<u32>> {
        let map: Vec<u32> = [&[1; 12], extras].concat();
        let with_runs = map_with_runs(&map, 3, 4)?;
        assert_eq!(with_runs[..map.len()], map);
        Some(with_runs[map.len()..].to_vec())
    }

    const ZERO: u32 = extra(0, NO_PART);

    #[test]
    fn each_head_finds_its_words() {
        assert_eq!(runs(&[]), Some(vec![3, 8, 8, 8]));
        // Heads 0 and 2 have extra parts, head 0 more than a word of them; the end is not a whole word.
        let some = [
            extra(0, 1),
            extra(0, 2),
            extra(1, 0),
            extra(2, 1),
            extra(3, 1),
            ZERO,
            ZERO,
            ZERO,
            extra(11, 1),
        ];
        assert_eq!(runs(&some), Some(vec![3, 5, 5, 8]));
        // A word of zeros before, between and after.
        let zeros = [
            [ZERO; 4],
            [extra(5, 1); 4],
            [ZERO; 4],
            [extra(8, 1); 4],
            [ZERO; 4],
        ]
        .concat();
        assert_eq!(runs(&zeros), Some(vec![3, 4, 6, 8]));
    }

    #[test]
    fn maps_that_share_words_do_not_fit() {
        assert_eq!(runs(&[extra(3, 1), extra(4, 1)]), None);
        assert_eq!(runs(&[extra(4, 1), ZERO, ZERO, ZERO, extra(0, 1)]), None);
        assert_eq!(runs(&[extra(12, 1)]), None);
        assert_eq!(map_with_runs(&[1; 12], 2, 6), None);
        assert_eq!(map_with_runs(&[1; 11], 3, 4), None);
    }
}
