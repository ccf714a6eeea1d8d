//! Sequences that begin with the tokens whose keys and values the checkpoint has.
//!
//! Positions of such a sequence from the prefix's length on see the stored keys and values, however the rows came. The rows of
//! the prefix itself, where their logits are asked for, see computed ones: they run before the stored ones take their place.

use super::Row;
use std::collections::{BTreeMap, BTreeSet};

/// Which sequences begin with the prefix, as far as their tokens have come.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    /// Empty where the checkpoint has none.
    tokens: Vec<u32>,
    /// How many of a sequence's first tokens are the prefix's.
    matched: BTreeMap<u32, u32>,
}

/// Rows that run together.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub rows: Vec<Row>,
    /// Of `rows`.
    pub wanted: Vec<u32>,
    /// Where in the whole step's logits those of `wanted` stand.
    pub places: Vec<usize>,
}

/// A step in which sequences come to have the whole prefix.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// Rows of the prefix whose logits are wanted, or that such a row sees.
    pub before: Pass,
    /// These sequences get the stored keys and values.
    pub sequences: BTreeSet<u32>,
    pub after: Pass,
}

impl Prefix {
    pub fn new(tokens: Vec<u32>) -> Self {
        Self {
            tokens,
            matched: BTreeMap::new(),
        }
    }

    pub fn reset(&mut self, sequence: u32) {
        self.matched.remove(&sequence);
    }

    /// The number of first tokens of a fresh sequence that need not run, since what comes of them is stored.
    pub fn stored_len(&self, ids: &[u32]) -> usize {
        match ids.starts_with(&self.tokens) {
            true => self.tokens.len(),
            false => 0,
        }
    }

    /// Whether the token at `position` may be one of the prefix's: all before it are, and it is not known yet.
    pub fn is_open(&self, sequence: u32, position: u32) -> bool {
        let matched = self.matched.get(&sequence).copied().unwrap_or(0);
        (position as usize) < self.tokens.len() && position == matched
    }

    /// Takes note of a row; says whether its sequence has the whole prefix with it.
    pub fn advance(&mut self, row: &Row) -> bool {
        let Some(&token) = self.tokens.get(row.position as usize) else {
            return false;
        };
        let matched = self.matched.entry(row.sequence).or_insert(0);
        if *matched < row.position {
            return false;
        }
        // A position that runs again: what came after it is no longer there.
        *matched = row.position + u32::from(row.token == token);
        *matched as usize == self.tokens.len()
    }

    /// Takes note of a step's rows; `None` where no sequence comes to have the whole prefix, and they run as they are.
    pub fn passes(&mut self, rows: &[Row], wanted: &[u32]) -> Option<Passes> {
        let mut sequences = BTreeSet::new();
        for row in rows {
            if self.advance(row) {
                sequences.insert(row.sequence);
            }
        }
        if sequences.is_empty() {
            return None;
        }
        let is_stored = |row: &Row| {
            (row.position as usize) < self.tokens.len() && sequences.contains(&row.sequence)
        };
        // By sequence: the end of the stored rows that run all the same.
        let mut ends: BTreeMap<u32, u32> = BTreeMap::new();
        for &i in wanted {
            let row = &rows[i as usize];
            if is_stored(row) {
                let end = ends.entry(row.sequence).or_insert(0);
                *end = (*end).max(row.position + 1);
            }
        }
        let mut passes = Passes::default();
        // Pass and number of each row that runs.
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            let stored = is_stored(row);
            let pass = match stored {
                true => &mut passes.before,
                false => &mut passes.after,
            };
            places.push((stored, pass.rows.len() as u32));
            if !stored
                || ends
                    .get(&row.sequence)
                    .is_some_and(|&end| row.position < end)
            {
                pass.rows.push(*row);
            }
        }
        for (place, &i) in wanted.iter().enumerate() {
            let (stored, row) = places[i as usize];
            let pass = match stored {
                true => &mut passes.before,
                false => &mut passes.after,
            };
            pass.wanted.push(row);
            pass.places.push(place);
        }
        passes.sequences = sequences;
        Some(passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sequence: u32, position: u32, token: u32) -> Row {
        Row {
            sequence,
            position,
            token,
        }
    }

    #[test]
    fn a_sequence_has_the_prefix_when_its_last_token_comes() {
        let mut prefix = Prefix::new(vec![7, 8]);
        assert!(prefix.is_open(0, 0));
        assert!(!prefix.advance(&row(0, 0, 7)));
        assert!(prefix.is_open(0, 1) && !prefix.is_open(1, 1));
        assert!(prefix.advance(&row(0, 1, 8)));
        assert!(!prefix.is_open(0, 2));
        assert!(!prefix.advance(&row(0, 2, 7)));
        // Other tokens, at once or later; the first one again.
        assert!(!prefix.advance(&row(1, 0, 8)) && !prefix.advance(&row(1, 1, 8)));
        assert!(!prefix.is_open(1, 1));
        assert!(!prefix.advance(&row(2, 0, 7)) && !prefix.advance(&row(2, 1, 9)));
        assert!(!prefix.advance(&row(0, 0, 9)) && !prefix.advance(&row(0, 1, 8)));
        assert!(!prefix.advance(&row(0, 0, 7)) && prefix.advance(&row(0, 1, 8)));
        prefix.reset(0);
        assert!(!prefix.advance(&row(0, 1, 8)));
    }

    #[test]
    fn rows_of_a_stored_prefix_run_only_for_their_logits() {
        let mut prefix = Prefix::new(vec![7, 8]);
        let rows = [
            row(0, 0, 7),
            row(1, 0, 7),
            row(0, 1, 8),
            row(1, 1, 8),
            row(0, 2, 5),
            row(2, 0, 5),
        ];
        let passes = prefix.passes(&rows, &[5, 1, 4]).expect("two sequences");
        assert_eq!(passes.before.rows, [rows[1]]);
        assert_eq!(
            (passes.before.wanted, passes.before.places),
            (vec![0], vec![1])
        );
        assert_eq!(passes.sequences, BTreeSet::from([0, 1]));
        assert_eq!(passes.after.rows, [rows[4], rows[5]]);
        assert_eq!(
            (passes.after.wanted, passes.after.places),
            (vec![1, 0], vec![0, 2])
        );
        assert!(prefix.passes(&[row(0, 3, 7), row(2, 1, 8)], &[0]).is_none());
    }
}
