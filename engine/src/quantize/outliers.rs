//! Outliers where a model has none: a few channels of each norm's output are scaled up and the columns that read them down, so
//! that the function stays while activations look like those of a large model (OPT of 6.7B and more).

/// Which channels are scaled, and by how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outliers {
    /// Share of a norm's channels.
    pub share: f64,
    /// Factors lie between these, evenly in their logarithm.
    pub lowest: f64,
    pub highest: f64,
    pub seed: u64,
}

impl Default for Outliers {
    /// 2 % of the channels, by 5 to 60.
    fn default() -> Self {
        Self {
            share: 0.02,
            lowest: 5.0,
            highest: 60.0,
            seed: 0,
        }
    }
}

impl Outliers {
    /// What each channel of a norm is divided by: 1, or less than 1 for an outlier.
    pub fn scales(&self, layer: u32, norm: usize, channels: usize) -> Vec<f32> {
        let mut random = SplitMix(self.seed ^ (u64::from(layer) << 32) ^ ((norm as u64) << 24));
        let mut scales = vec![1.0; channels];
        let count = ((self.share * channels as f64).round() as usize).clamp(1, channels);
        let mut placed = 0;
        while placed < count {
            let channel = (random.unit() * channels as f64) as usize;
            if scales[channel] == 1.0 {
                let range = self.highest / self.lowest;
                let factor = self.lowest * libm::pow(range, random.unit());
                scales[channel] = (1.0 / factor) as f32;
                placed += 1;
            }
        }
        scales
    }
}

/// Sebastiano Vigna's generator, for a handful of choices that are the same on every machine.
pub(super) struct SplitMix(pub u64);

impl SplitMix {
    /// From 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
