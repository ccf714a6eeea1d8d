//! `plateau perplexity`: how well a model predicts a text.

use crate::args::{Perplexity, Score};
use crate::console::{Console, Unit, count, print_json, print_line, rate};
use crate::exit::{CliError, usage};
use crate::load;
use crate::text::read_text;
use anyhow::Result;
use serde::Serialize;
use std::ops::Range;
use std::time::Instant;

/// Tokens of a window, as in llama.cpp.
const DEFAULT_WINDOW: u32 = 512;

#[derive(Serialize)]
struct Measured {
    model: String,
    format: String,
    perplexity: f64,
    /// Of the perplexity.
    standard_error: f64,
    /// Mean loss, natural logarithm.
    nll: f64,
    nll_standard_error: f64,
    /// Predicted ones.
    tokens: u64,
    windows: usize,
    ctx_size: u32,
    bos: bool,
}

pub async fn run(args: &Perplexity, console: &Console) -> Result<()> {
    let text = read_text(&args.file)?;
    let checkpoint = load::checkpoint(args.load.model.model.as_deref()).await?;
    let size = args.ctx_size.unwrap_or(
        DEFAULT_WINDOW
            .min(checkpoint.config.max_position_embeddings)
            .max(2),
    );
    let options = load::options(&args.load.format, Some(size))?;
    let bos = if args.no_bos {
        None
    } else {
        checkpoint.generation.bos_token_id
    };
    let tokenizer = load::tokenizer(&checkpoint).await?;
    let ids = tokenizer.encode(&text, false)?;
    let scored = scored(size as usize, args.score);
    let windows = windows(&ids, bos, size as usize, args.chunks);
    if windows.is_empty() || scored.is_empty() {
        let line = format!(
            "{}: {} tokens give no prediction with --ctx-size {size}: one window of the text has {} tokens",
            args.file.display(),
            ids.len(),
            size as usize - usize::from(bos.is_some())
        );
        return Err(usage(line));
    }
    let mut session = load::session(&checkpoint, &args.load, &options, console).await?;

    let vocab = checkpoint.config.vocab_size as usize;
    let mut tally = Tally::default();
    let progress = console.progress("windows", windows.len() as u64, Unit::Steps);
    let start = Instant::now();
    for (done, window) in windows.iter().enumerate() {
        session
            .logits(window, &mut |first_row, logits| {
                for (row, logits) in (first_row..).zip(logits.chunks_exact(vocab)) {
                    if scored.contains(&(row + 1)) {
                        tally.add(loss(logits, window[row + 1]));
                    }
                }
            })
            .await?;
        progress.set(done as u64 + 1);
    }
    drop(progress);
    let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);

    let nll = tally.mean();
    if !nll.is_finite() {
        return Err(CliError::NumericCheck(format!(
            "the mean loss is {nll}: some logits are not finite"
        ))
        .into());
    }
    let measured = Measured {
        model: checkpoint.folder.name(),
        format: load::format_label(&checkpoint, options.quant),
        perplexity: nll.exp(),
        standard_error: nll.exp() * tally.standard_error(),
        nll,
        nll_standard_error: tally.standard_error(),
        tokens: tally.count,
        windows: windows.len(),
        ctx_size: size,
        bos: bos.is_some(),
    };
    if args.json {
        print_json(&measured)?;
    } else {
        print_line(&format!(
            "perplexity {:.4} +/- {:.4} (nll {:.6}, {} tokens predicted in {} of {size})",
            measured.perplexity,
            measured.standard_error,
            nll,
            measured.tokens,
            count(measured.windows, "window")
        ))?;
    }
    console.note(format!(
        "{:.1} tokens/s",
        rate(windows.len() * size as usize, elapsed)
    ));
    Ok(())
}

/// The text cut into windows of `size` tokens, each with `bos` in front if there is one; what is left over is dropped.
fn windows(ids: &[u32], bos: Option<u32>, size: usize, most: Option<u32>) -> Vec<Vec<u32>> {
    let text = size - usize::from(bos.is_some());
    let most = most.map_or(usize::MAX, |most| most as usize);
    ids.chunks_exact(text)
        .take(most)
        .map(|ids| bos.into_iter().chain(ids.iter().copied()).collect())
        .collect()
}

/// Which tokens of a window count as predictions. llama.cpp leaves out the first half and the first after it.
fn scored(size: usize, score: Score) -> Range<usize> {
    match score {
        Score::All => 1..size,
        Score::SecondHalf => size / 2 + 1..size,
    }
}

/// -ln softmax(logits)[target]
fn loss(logits: &[f32], target: u32) -> f64 {
    let Some(&logit) = logits.get(target as usize) else {
        return f64::NAN;
    };
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - max).exp())
        .sum();
    sum.ln() + max - f64::from(logit)
}

/// Mean and spread of the losses.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    sum: f64,
    sum_of_squares: f64,
}

impl Tally {
    fn add(&mut self, loss: f64) {
        self.count += 1;
        self.sum += loss;
        self.sum_of_squares += loss * loss;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Of the mean, as if the losses were independent; 0 for less than two.
    fn standard_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.sum_of_squares / self.count as f64 - self.mean().powi(2);
        (variance.max(0.0) / (self.count - 1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_the_rest_is_dropped() {
        let ids: Vec<u32> = (10..21).collect();
        assert_eq!(
            windows(&ids, None, 4, None),
            [[10, 11, 12, 13], [14, 15, 16, 17]]
        );
        assert_eq!(
            windows(&ids, Some(1), 4, None),
            [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]]
        );
        assert_eq!(windows(&ids, Some(1), 4, Some(2)).len(), 2);
        assert_eq!(windows(&ids, None, 11, None).len(), 1);
        assert!(windows(&ids, None, 12, None).is_empty());
    }

    #[test]
    fn the_first_token_of_a_window_is_never_predicted() {
        assert_eq!(scored(256, Score::All).len(), 255);
        // llama.cpp: n_ctx - first - 1 predictions, with first = n_ctx / 2.
        assert_eq!(scored(256, Score::SecondHalf), 129..256);
        assert_eq!(scored(7, Score::SecondHalf).len(), 7 - 3 - 1);
        assert!(scored(2, Score::SecondHalf).is_empty());
    }

    #[test]
    fn the_loss_is_that_of_softmax() {
        assert!((loss(&[0.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
        let expected = -(1f64.exp() / (1f64.exp() + 2f64.exp() + 3f64.exp())).ln();
        assert!((loss(&[1.0, 2.0, 3.0], 0) - expected).abs() < 1e-12);
        assert!((loss(&[1000.0, 1000.0], 1) - 2f64.ln()).abs() < 1e-12);
        assert!(loss(&[1.0, f32::NAN], 0).is_nan());
        assert!(loss(&[1.0], 1).is_nan());
    }

    #[test]
    fn the_tally_gives_mean_and_standard_error() {
        let mut tally = Tally::default();
        [1.0, 2.0, 3.0, 4.0]
            .into_iter()
            .for_each(|loss| tally.add(loss));
        assert_eq!(tally.mean(), 2.5);
        assert!((tally.standard_error() - (1.25f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
