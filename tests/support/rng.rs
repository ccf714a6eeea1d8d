//! Seeded inputs. Every test says its seed, so that a failure can be replayed.

use std::cell::Cell;

/// SplitMix64: small, and good enough to fill tensors.
#[derive(Clone, Debug)]
pub struct Rng(u64);

thread_local! {
    static SALT: Cell<u64> = const { Cell::new(0) };
}

/// What `make` gives with other seeds: those that it asks for, each mixed with `salt`. 0 changes nothing.
pub fn salted<T>(salt: u64, make: impl FnOnce() -> T) -> T {
    let before = SALT.replace(if salt == 0 { 0 } else { Rng(salt).next_u64() });
    let made = make();
    SALT.set(before);
    made
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ SALT.get())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// Uniform in `0..end`.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(end)) >> 32) as u32
    }

    /// Uniform in -1..1, on a grid of 2^-23.
    pub fn unit(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// `len` values uniform in -scale..scale.
    pub fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.unit() * scale).collect()
    }

    /// As [`Rng::floats`], with one column in 16 made 20 to 60 times larger: what a transformer's activations look like.
    pub fn outliers(&mut self, rows: usize, features: usize, scale: f32) -> Vec<f32> {
        let mut x = self.floats(rows * features, scale);
        for column in (0..features).filter(|column| column % 16 == 3) {
            let factor = 40.0 + 20.0 * self.unit();
            for row in 0..rows {
                x[row * features + column] *= factor;
            }
        }
        x
    }

    /// `len` integers uniform in -max..=max.
    pub fn integers(&mut self, len: usize, max: i32) -> Vec<i32> {
        (0..len)
            .map(|_| self.below(2 * max as u32 + 1) as i32 - max)
            .collect()
    }
}
