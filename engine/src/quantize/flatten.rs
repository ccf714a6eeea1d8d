//! Flattening: large channels become several channels of bounded values, so that one static scale serves a whole tensor.
//!
//! [FlattenQuant](https://arxiv.org/abs/2402.17985), section 3.2. With a threshold T a channel whose largest magnitude is M
//! becomes n = ceil(M / T) channels; part p of a value x is `sign(x) * clamp(|x| - p * T, 0, T)`. The parts sum to x, so
//! repeating the weight's column n times keeps the product. The same is done to W, whose column j is cut into m parts while
//! the channels of X are repeated. A channel of X with n parts whose weights have m parts takes n * m flat channels.

use crate::checkpoint::{FLATTEN_PADDING, MAX_PARTS};
use plateau_shaders::quantize::flatten_quantize::extra;

/// Flat channels in a word of integers.
const WORD_CHANNELS: usize = 4;
/// The least threshold: the inverse of a smaller one's scale may overflow.
const LEAST_THRESHOLD: f32 = 1e-30;
/// The threshold of a tensor of zeros: any will do.
const THRESHOLD_OF_ZEROS: f32 = 1.0;

/// Why channels cannot be flattened.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FlattenError {
    #[error("threshold {found}, expected a number above 0")]
    Threshold { found: f32 },
    #[error("channel {channel}: largest magnitude {found}, expected a finite number")]
    NotFinite { channel: usize, found: f32 },
    #[error(
        "channel {channel}: threshold {threshold} cuts {absmax} into {found} parts, expected at most {MAX_PARTS}"
    )]
    TooManyParts {
        channel: usize,
        absmax: f32,
        threshold: f32,
        found: f64,
    },
}

/// Which flat channel holds which part of which channel.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatMap {
    /// n of each channel.
    x_parts: Vec<u32>,
    /// m of each channel.
    w_parts: Vec<u32>,
    w_threshold: f32,
    words: Vec<u32>,
    index: Vec<u32>,
}

impl FlatMap {
    /// From the largest magnitude of each channel of X and of each column of W, and the thresholds; infinity splits nothing.
    /// The extra channels of `tile` source channels start and end at whole words of integers, so that each word has one
    /// writer; 0 leaves no room between them.
    pub fn new(
        x_absmax: &[f32],
        x_threshold: f32,
        w_absmax: &[f32],
        w_threshold: f32,
        tile: usize,
    ) -> Result<Self, FlattenError> {
        assert_eq!(x_absmax.len(), w_absmax.len(), "a maximum for each channel");
        let x_parts = num_parts(x_absmax, x_threshold)?;
        let w_parts = num_parts(w_absmax, w_threshold)?;
        Ok(Self::from_parts(x_parts, w_parts, w_threshold, tile))
    }

    /// From the parts themselves, 1 to [`MAX_PARTS`] for each channel of X and of W. Values beyond the parts saturate.
    pub fn from_parts(x_parts: Vec<u32>, w_parts: Vec<u32>, w_threshold: f32, tile: usize) -> Self {
        assert_eq!(x_parts.len(), w_parts.len(), "parts for each channel");
        let features = x_parts.len();
        let mut words = Vec::new();
        let mut index = Vec::with_capacity(2 * features);
        for (source, (&n, &m)) in x_parts.iter().zip(&w_parts).enumerate() {
            if tile > 0 && source % tile == 0 {
                pad_to_word(features, &mut words);
            }
            if n * m == 1 {
                index.extend([0, 0]);
                continue;
            }
            // A first run must not share a word with the last of the part 0.
            if tile > 0 && words.is_empty() {
                let before = (WORD_CHANNELS - features % WORD_CHANNELS) % WORD_CHANNELS;
                words.resize(before, FLATTEN_PADDING);
            }
            index.extend([words.len() as u32, n * m - 1]);
            words.extend((1..n * m).map(|at| extra(source as u32, at / m)));
        }
        if tile > 0 {
            pad_to_word(features, &mut words);
        }
        Self {
            x_parts,
            w_parts,
            w_threshold,
            words,
            index,
        }
    }

    /// Channels before flattening.
    pub fn features(&self) -> usize {
        self.x_parts.len()
    }

    /// Channels after it: part 0 of every channel, then one for each of [`FlatMap::words`].
    pub fn flat_features(&self) -> usize {
        self.features() + self.words.len()
    }

    /// The checkpoint's `flatten_map`: of each extra channel `source | part << 24`, or the padding word.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The checkpoint's `flatten_index` [features, 2]: first extra channel and number of extra channels, or 0 and 0.
    pub fn index(&self) -> &[u32] {
        &self.index
    }

    /// Parts of each channel of X, 1 and more.
    pub fn x_parts(&self) -> &[u32] {
        &self.x_parts
    }

    /// Parts of each column of W, 1 and more.
    pub fn w_parts(&self) -> &[u32] {
        &self.w_parts
    }

    /// A row of W on the flat channels: the column repeated for each part of X, cut into its own parts where W is split.
    pub fn flatten_weights(&self, row: &[f32]) -> Vec<f32> {
        self.flat_channels(|source, _, w_part| match self.w_parts[source] {
            1 => row[source],
            _ => part_of(row[source], w_part, self.w_threshold),
        })
    }

    /// A value for each flat channel, of (source, part of X, part of W); the default on padding.
    fn flat_channels<T: Copy + Default>(
        &self,
        mut value: impl FnMut(usize, u32, u32) -> T,
    ) -> Vec<T> {
        let mut flat = vec![T::default(); self.flat_features()];
        let features = self.features();
        for source in 0..features {
            flat[source] = value(source, 0, 0);
            let [first, count] = [self.index[2 * source], self.index[2 * source + 1]];
            let m = self.w_parts[source];
            for at in 1..=count {
                flat[features + (first + at - 1) as usize] = value(source, at / m, at % m);
            }
        }
        flat
    }
}

fn pad_to_word(features: usize, words: &mut Vec<u32>) {
    while !words.is_empty() && !(features + words.len()).is_multiple_of(WORD_CHANNELS) {
        words.push(FLATTEN_PADDING);
    }
}

/// Part `part` of a value. In f64, where `part * threshold` and the difference are exact.
fn part_of(value: f32, part: u32, threshold: f32) -> f32 {
    if part == 0 {
        return value.clamp(-threshold, threshold);
    }
    let threshold = f64::from(threshold);
    let magnitude = (f64::from(value.abs()) - f64::from(part) * threshold).clamp(0.0, threshold);
    (magnitude as f32).copysign(value)
}

/// ceil(absmax / threshold) of each channel, at least 1.
pub fn num_parts(absmax: &[f32], threshold: f32) -> Result<Vec<u32>, FlattenError> {
    if threshold.is_nan() || threshold <= 0.0 {
        return Err(FlattenError::Threshold { found: threshold });
    }
    let parts = |(channel, &absmax): (usize, &f32)| {
        if !absmax.is_finite() {
            return Err(FlattenError::NotFinite {
                channel,
                found: absmax,
            });
        }
        match parts_of(absmax, threshold) {
            parts if parts <= f64::from(MAX_PARTS) => Ok(parts as u32),
            found => Err(FlattenError::TooManyParts {
                channel,
                absmax,
                threshold,
                found,
            }),
        }
    };
    absmax.iter().enumerate().map(parts).collect()
}

/// In f64 a quotient of two f32 is whole only where it is exactly so.
fn parts_of(absmax: f32, threshold: f32) -> f64 {
    (f64::from(absmax) / f64::from(threshold)).ceil().max(1.0)
}

/// `threshold` within what is usable for channels up to `largest`: at most that, not so low that a channel would take too many
/// parts, and with a scale whose inverse is finite.
pub fn usable_threshold(threshold: f32, largest: f32) -> f32 {
    if largest == 0.0 {
        return THRESHOLD_OF_ZEROS;
    }
    let highest = largest.max(LEAST_THRESHOLD);
    // One ulp up, since the quotient may be rounded down.
    let lowest = (largest / MAX_PARTS as f32).next_up().max(LEAST_THRESHOLD);
    threshold.clamp(lowest.min(highest), highest)
}
