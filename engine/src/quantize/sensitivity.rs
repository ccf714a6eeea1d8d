//! How much each group of linears matters: the KL divergence of the model's output when that group alone is quantized.
//!
//! Streams of hidden states run side by side through the layers, one that is exact and one for each group, which leaves the
//! exact one at its layer. So each layer is on the device once, and each measurement is of the whole model. What a finer
//! format of the same group would cost follows from the expected errors: for small changes the divergence grows with the
//! square of the change.

use super::QuantizeError;
use super::calibrate::{LayerPrefix, Samples, Side, Stage};
use crate::checkpoint::ModelConfig;
use crate::eval::LogitRow;
use rayon::prelude::*;

/// Tokens that are measured, in whole windows.
const TOKENS: usize = 4096;

/// The streams.
pub(super) struct Streams {
    pub samples: Samples,
    /// Position of the first row of each window.
    pub first: usize,
    exact: Vec<f32>,
    /// One for each group so far.
    changed: Vec<Vec<f32>>,
}

impl Streams {
    /// From the exact hidden states of all samples before the first layer, [windows, window, hidden].
    pub fn new(samples: &Samples, first: usize, config: &ModelConfig, hidden: &[f32]) -> Self {
        let window = samples.window();
        let windows = (TOKENS / window).clamp(1, samples.windows.len());
        let width = config.hidden_size as usize;
        let exact = hidden[..windows * window * width]
            .chunks_exact(window * width)
            .flat_map(|window| &window[first * width..])
            .copied()
            .collect();
        Self {
            samples: Samples {
                windows: samples.windows[..windows].to_vec(),
            },
            first,
            exact,
            changed: Vec::new(),
        }
    }

    /// Lets a stream leave the exact one through `stage`, a layer of which one group is quantized.
    pub async fn branch(&mut self, stage: &mut Stage<'_>) -> Result<(), QuantizeError> {
        let mut hidden = self.exact.clone();
        stage.forward(Side::Model, &mut hidden).await?;
        self.changed.push(hidden);
        Ok(())
    }

    /// Takes all streams but the `new` latest through `stage`, the float layer.
    pub async fn advance(
        &mut self,
        stage: &mut Stage<'_>,
        prefix: &LayerPrefix,
        new: usize,
    ) -> Result<(), QuantizeError> {
        stage.write_prefix(prefix)?;
        stage.forward(Side::Model, &mut self.exact).await?;
        let old = self.changed.len() - new;
        for hidden in &mut self.changed[..old] {
            stage.forward(Side::Model, hidden).await?;
        }
        Ok(())
    }

    /// The mean divergence of each stream's output from the exact one, in the order of the branches. `stage` is the head.
    pub async fn divergences(self, stage: &mut Stage<'_>) -> Result<Vec<f64>, QuantizeError> {
        let rows = self.samples.windows.len() * stage.rows_per_window();
        let mut sums = vec![0.0; self.changed.len()];
        for at in 0..stage.head_steps(rows) {
            let exact = stage.logits(&self.exact, at).await?;
            for (hidden, sum) in self.changed.iter().zip(&mut sums) {
                let changed = stage.logits(hidden, at).await?;
                let vocab = stage.vocab();
                let rows: Vec<f64> = exact
                    .par_chunks_exact(vocab)
                    .zip(changed.par_chunks_exact(vocab))
                    .map(|(exact, changed)| divergence(exact, changed))
                    .collect();
                *sum += rows.iter().sum::<f64>();
            }
        }
        Ok(sums.into_iter().map(|sum| sum / rows as f64).collect())
    }
}

/// KL divergence of softmax(changed) from softmax(exact), in nats; infinite where a logit is not finite.
fn divergence(exact: &[f32], changed: &[f32]) -> f64 {
    match (LogitRow::new(exact), LogitRow::new(changed)) {
        (Some(exact), Some(changed)) => exact.divergence(&changed),
        _ => f64::INFINITY,
    }
}
