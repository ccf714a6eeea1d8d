//! Perplexity on a text, and the divergence of models from a float one on the same tokens.

use super::EvalError;
use super::statistics::{LogitRow, Tally, quantile};
use crate::session::Session;
use rayon::prelude::*;
use std::ops::Range;

/// Which tokens of a window count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Every token that is predicted.
    All,
    /// Those after the first half and one more, as llama.cpp does.
    SecondHalf,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug)]
pub struct WindowOptions {
    /// Tokens of a window, the begin token included.
    pub size: usize,
    /// Stands in front of each window.
    pub bos: Option<u32>,
    /// Windows at most.
    pub most: Option<usize>,
    pub score: Score,
}

/// A text's tokens in windows that do not overlap.
#[derive(Clone, Debug)]
pub struct Windows {
    /// [windows, size]
    pub ids: Vec<Vec<u32>>,
    /// The positions of a window whose tokens are predicted and count.
    pub scored: Range<usize>,
}

impl Windows {
    /// What is left over at the end of the text is dropped.
    pub fn cut(ids: &[u32], options: &WindowOptions) -> Self {
        let text = options
            .size
            .saturating_sub(usize::from(options.bos.is_some()));
        let windows = ids
            .chunks_exact(text.max(1))
            .take(options.most.unwrap_or(usize::MAX))
            .map(|ids| options.bos.into_iter().chain(ids.iter().copied()).collect());
        let first = match options.score {
            Score::All => 1,
            Score::SecondHalf => options.size / 2 + 1,
        };
        Self {
            ids: windows.collect(),
            scored: first..options.size,
        }
    }

    /// Predictions that count.
    pub fn predictions(&self) -> usize {
        self.ids.len() * self.scored.len()
    }
}

/// A model under its name.
pub struct Subject<'a> {
    /// For messages.
    pub name: &'a str,
    pub session: &'a mut Session,
}

/// How well one model predicts a text.
#[derive(Clone, Debug, Default)]
pub struct TextScore {
    /// −ln of the probability of each token, in nats. The perplexity is exp of the mean.
    pub losses: Tally,
    /// From the reference, where there is one.
    pub divergence: Option<Divergence>,
}

/// How far a model's predictions are from the reference's, over the tokens that count.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// The model's loss less the reference's, token by token. The ratio of the perplexities is exp of the mean.
    pub extra_losses: Tally,
    /// KL(softmax(reference) ‖ softmax(model)), in nats.
    pub kl: Tally,
    /// 1 where both find the same token most likely, else 0.
    pub same_top: Tally,
    /// Of `kl`; eight bytes for each token.
    values: Vec<f64>,
}

impl Divergence {
    fn add(&mut self, row: &RowDivergence) {
        self.extra_losses.add(row.extra_loss);
        self.kl.add(row.kl);
        self.same_top.add(f64::from(u8::from(row.same_top)));
        self.values.push(row.kl);
    }

    /// Quantiles of the KL divergence; a share of 1 is the largest.
    pub fn kl_quantiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        shares.map(|share| quantile(&sorted, share))
    }
}

struct RowScore {
    loss: f64,
    divergence: Option<RowDivergence>,
}

struct RowDivergence {
    extra_loss: f64,
    kl: f64,
    same_top: bool,
}

/// Scores models on the windows of a text, and compares them with the reference if there is one. Gives the reference's own
/// score, and one for each model.
///
/// The reference runs once for each window. Its logits of that window, [scored, vocab] f32, are all that is kept on the
/// host; all models stay on their devices. `progress` gets the number of windows done, of `ids.len()` for each model.
///
/// # Errors
/// Vocabularies of different sizes, before anything runs; a logit that is not finite.
pub async fn score_text(
    mut reference: Option<Subject<'_>>,
    models: &mut [Subject<'_>],
    windows: &Windows,
    progress: &mut dyn FnMut(u64),
) -> Result<(Option<TextScore>, Vec<TextScore>), EvalError> {
    check_vocabularies(reference.as_ref(), models)?;
    let mut own = reference.as_ref().map(|_| TextScore::default());
    let mut scores: Vec<TextScore> = models
        .iter()
        .map(|_| TextScore {
            losses: Tally::default(),
            divergence: reference.as_ref().map(|_| Divergence::default()),
        })
        .collect();
    let mut done = 0;
    let mut float = Vec::new();
    for (number, ids) in windows.ids.iter().enumerate() {
        if let (Some(subject), Some(own)) = (&mut reference, &mut own) {
            float.clear();
            let keep = Some(&mut float);
            score_window(subject, number, ids, &windows.scored, None, keep, own).await?;
            done += 1;
            progress(done);
        }
        let float = reference.as_ref().map(|_| float.as_slice());
        for (subject, score) in models.iter_mut().zip(&mut scores) {
            score_window(subject, number, ids, &windows.scored, float, None, score).await?;
            done += 1;
            progress(done);
        }
    }
    Ok((own, scores))
}

fn check_vocabularies(
    reference: Option<&Subject<'_>>,
    models: &[Subject<'_>],
) -> Result<(), EvalError> {
    let Some(reference) = reference else {
        return Ok(());
    };
    let expected = reference.session.config().vocab_size;
    match models
        .iter()
        .find(|model| model.session.config().vocab_size != expected)
    {
        None => Ok(()),
        Some(model) => Err(EvalError::Vocabulary {
            model: model.name.to_owned(),
            found: model.session.config().vocab_size,
            reference: reference.name.to_owned(),
            expected,
        }),
    }
}

/// Runs one window; `float` has the reference's logits of the scored rows, `keep` takes this model's.
async fn score_window(
    subject: &mut Subject<'_>,
    number: usize,
    ids: &[u32],
    scored: &Range<usize>,
    float: Option<&[f32]>,
    mut keep: Option<&mut Vec<f32>>,
    score: &mut TextScore,
) -> Result<(), EvalError> {
    let vocab = subject.session.config().vocab_size as usize;
    let mut bad = None;
    subject
        .session
        .logits(ids, &mut |first_row, logits| {
            let rows: Vec<(usize, Option<RowScore>)> = logits
                .par_chunks_exact(vocab)
                .enumerate()
                .filter_map(|(i, row)| {
                    // The row of a token predicts the next one.
                    let target = first_row + i + 1;
                    scored.contains(&target).then(|| {
                        let at = (target - scored.start) * vocab;
                        let float = float.map(|float| &float[at..at + vocab]);
                        (target, score_row(row, ids[target], float))
                    })
                })
                .collect();
            for (target, row) in rows {
                match row {
                    None => bad = bad.or(Some(target - 1)),
                    Some(row) => {
                        score.losses.add(row.loss);
                        if let (Some(sum), Some(row)) = (&mut score.divergence, row.divergence) {
                            sum.add(&row);
                        }
                    }
                }
            }
            if let Some(keep) = &mut keep {
                let rows = (first_row + 1..).zip(logits.chunks_exact(vocab));
                rows.filter(|(target, _)| scored.contains(target))
                    .for_each(|(_, row)| keep.extend_from_slice(row));
            }
        })
        .await?;
    match bad {
        None => Ok(()),
        Some(position) => Err(EvalError::NotFinite {
            model: subject.name.to_owned(),
            place: format!("window {number}, position {position}"),
        }),
    }
}

/// `None` where a logit is not finite.
fn score_row(logits: &[f32], target: u32, float: Option<&[f32]>) -> Option<RowScore> {
    let row = LogitRow::new(logits)?;
    let loss = -row.log_probability(target)?;
    let divergence = match float {
        None => None,
        Some(float) => {
            let float = LogitRow::new(float)?;
            Some(RowDivergence {
                extra_loss: loss + float.log_probability(target)?,
                kl: float.divergence(&row),
                same_top: float.top == row.top,
            })
        }
    };
    Some(RowScore { loss, divergence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(ids: &[u32], bos: Option<u32>, size: usize, most: Option<usize>) -> Vec<Vec<u32>> {
        let options = WindowOptions {
            size,
            bos,
            most,
            score: Score::All,
        };
        Windows::cut(ids, &options).ids
    }

    #[test]
    fn windows_do_not_overlap_and_the_rest_is_dropped() {
        let ids: Vec<u32> = (10..21).collect();
        assert_eq!(
            cut(&ids, None, 4, None),
            [[10, 11, 12, 13], [14, 15, 16, 17]]
        );
        assert_eq!(
            cut(&ids, Some(1), 4, None),
            [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]]
        );
        assert_eq!(cut(&ids, Some(1), 4, Some(2)).len(), 2);
        assert_eq!(cut(&ids, None, 11, None).len(), 1);
        assert!(cut(&ids, None, 12, None).is_empty());
    }

    #[test]
    fn the_first_token_of_a_window_is_never_predicted() {
        let scored = |size, score| {
            let options = WindowOptions {
                size,
                bos: None,
                most: None,
                score,
            };
            Windows::cut(&[], &options).scored
        };
        assert_eq!(scored(256, Score::All).len(), 255);
        // llama.cpp: n_ctx - first - 1 predictions, with first = n_ctx / 2.
        assert_eq!(scored(256, Score::SecondHalf), 129..256);
        assert_eq!(scored(7, Score::SecondHalf).len(), 7 - 3 - 1);
        assert!(scored(2, Score::SecondHalf).is_empty());
    }

    #[test]
    fn a_row_is_compared_with_the_reference() {
        // p = (1/2, 1/2), q = (1/4, 3/4); the target is token 0.
        let (p, q) = ([0.0, 0.0], [1f32.ln(), 3f32.ln()]);
        let row = score_row(&q, 0, Some(&p)).expect("finite");
        assert!((row.loss - 4f64.ln()).abs() < 1e-6);
        let divergence = row.divergence.expect("there is a reference");
        assert!((divergence.extra_loss - 2f64.ln()).abs() < 1e-6);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((divergence.kl - expected).abs() < 1e-6);
        assert!(!divergence.same_top);
        let same = score_row(&q, 1, Some(&q)).expect("finite");
        let same = same.divergence.expect("there is a reference");
        assert!(same.kl == 0.0 && same.extra_loss == 0.0 && same.same_top);
        assert!(score_row(&[f32::NAN, 0.0], 0, None).is_none());
        assert!(score_row(&q, 0, Some(&[0.0, f32::INFINITY])).is_none());
        assert!(score_row(&q, 2, None).is_none());
    }

    #[test]
    fn a_divergence_has_a_mean_quantiles_and_the_share_of_equal_tops() {
        let mut divergence = Divergence::default();
        for (kl, same_top) in [(0.4, true), (0.0, true), (0.1, false), (0.3, true)] {
            divergence.add(&RowDivergence {
                extra_loss: kl / 2.0,
                kl,
                same_top,
            });
        }
        assert!((divergence.kl.mean() - 0.2).abs() < 1e-12);
        assert!((divergence.extra_losses.mean() - 0.1).abs() < 1e-12);
        assert_eq!(divergence.same_top.mean(), 0.75);
        assert!((divergence.same_top.standard_error() - 0.25).abs() < 1e-12);
        let [median, largest] = divergence.kl_quantiles([0.5, 1.0]);
        assert!((median - 0.2).abs() < 1e-12);
        assert_eq!(largest, 0.4);
    }
}
