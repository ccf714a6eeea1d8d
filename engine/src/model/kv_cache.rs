//! Which page of the KV cache holds which keys.

use plateau_shaders::PAGE_SIZE;
use std::collections::BTreeMap;

/// No page is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the KV cache has no free page: {pages} pages are in use")]
pub struct PagesExhausted {
    pub pages: u32,
}

/// Hands out the pages of the pools. A page holds [`PAGE_SIZE`] keys of one sequence in every layer.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Taken from the end.
    free: Vec<u32>,
    total: u32,
    held: BTreeMap<u32, Vec<u32>>,
}

impl Pages {
    pub fn new(total: u32) -> Self {
        Self {
            free: (0..total).rev().collect(),
            total,
            held: BTreeMap::new(),
        }
    }

    /// Makes room for `len` tokens of `sequence`; gives its pages, and whether there are new ones.
    pub fn reserve(&mut self, sequence: u32, len: u32) -> Result<(&[u32], bool), PagesExhausted> {
        let needed = len.div_ceil(PAGE_SIZE) as usize;
        let held = self.held.entry(sequence).or_default();
        let grown = held.len() < needed;
        while held.len() < needed {
            held.push(
                self.free
                    .pop()
                    .ok_or(PagesExhausted { pages: self.total })?,
            );
        }
        Ok((held, grown))
    }

    /// Gives the pages of `sequence` back.
    pub fn release(&mut self, sequence: u32) {
        self.free.extend(
            self.held
                .remove(&sequence)
                .unwrap_or_default()
                .into_iter()
                .rev(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_once_and_come_back() {
        let mut pages = Pages::new(3);
        assert_eq!(pages.reserve(0, 1), Ok((&[0][..], true)));
        assert_eq!(pages.reserve(1, 64), Ok((&[1][..], true)));
        assert_eq!(pages.reserve(0, 64), Ok((&[0][..], false)));
        assert_eq!(pages.reserve(0, 65), Ok((&[0, 2][..], true)));
        assert_eq!(pages.reserve(1, 65), Err(PagesExhausted { pages: 3 }));
        pages.release(0);
        assert_eq!(pages.reserve(1, 65), Ok((&[1, 0][..], true)));
    }
}
