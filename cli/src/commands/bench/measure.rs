//! What a test does, and how long that takes.

use crate::console::{Console, Unit};
use crate::exit::CliError;
use anyhow::Result;
use plateau::sampler::SamplerConfig;
use plateau::session::{Row, Session};
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

/// A prompt, a continuation, or one after the other; of several sequences at once, each after `depth` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub prompt: u32,
    pub gen_tokens: u32,
    pub depth: u32,
    pub sequences: u32,
}

impl Test {
    /// `pp512`, `tg128`, `pp512+tg128`
    pub fn kind(&self) -> String {
        match (self.prompt, self.gen_tokens) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, gen_tokens) => format!("tg{gen_tokens}"),
            (prompt, gen_tokens) => format!("pp{prompt}+tg{gen_tokens}"),
        }
    }

    /// As llama-bench writes it: `tg128 @ d2048`. The number of sequences has a column of its own.
    pub fn name(&self) -> String {
        match self.depth {
            0 => self.kind(),
            depth => format!("{} @ d{depth}", self.kind()),
        }
    }

    /// Of all sequences.
    pub fn tokens(&self) -> u32 {
        (self.prompt + self.gen_tokens) * self.sequences
    }

    /// Of the context of each sequence. A continuation starts from one token at least.
    pub fn positions(&self) -> u32 {
        self.depth
            .saturating_add(self.prompt.max(u32::from(self.gen_tokens > 0)))
            .saturating_add(self.gen_tokens)
    }
}

/// One repetition of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub ns: u64,
    /// Of a prompt: until the first new token is on the host, or, where none is asked for, the logits of the last token.
    pub first_ns: Option<u64>,
    /// From each new token to the next one.
    pub gaps_ns: Vec<u64>,
}

/// Ids that differ and are the same each time.
pub fn prompt_ids(positions: Range<u32>, vocab: u32) -> impl Iterator<Item = u32> {
    positions.map(move |index| ((u64::from(index) * 7919 + 1) % u64::from(vocab)) as u32)
}

pub fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// How long a test runs to warm up, at least once: an idle GPU takes its time to reach its clocks.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs to warm up, then each of `repetitions` runs.
pub async fn measure(
    session: &mut Session,
    test: Test,
    max_rows: u32,
    repetitions: u32,
    console: &Console,
) -> Result<Vec<Sample>> {
    let progress = console.progress(&test.name(), u64::from(repetitions) + 1, Unit::Steps);
    let mut samples = Vec::new();
    fill(session, test, max_rows).await?;
    let start = Instant::now();
    loop {
        run_once(session, test, max_rows).await?;
        if start.elapsed() >= WARM_UP {
            break;
        }
    }
    for repetition in 1..=u64::from(repetitions) {
        progress.set(repetition);
        samples.push(run_once(session, test, max_rows).await?);
    }
    progress.set(u64::from(repetitions) + 1);
    Ok(samples)
}

/// Fresh sequences with the tokens that stand before the test. They stay through its repetitions.
pub async fn fill(session: &mut Session, test: Test, max_rows: u32) -> Result<()> {
    for sequence in 0..test.sequences {
        session.reset(sequence);
    }
    feed(session, test.sequences, 0..test.depth, max_rows, false).await?;
    let (_, executor) = session.parts();
    Ok(executor.finish().await?)
}

/// Runs positions of all sequences, which have the same tokens, in steps of at most `max_rows` rows. With `logits` those of
/// each last token are waited for.
async fn feed(
    session: &mut Session,
    sequences: u32,
    positions: Range<u32>,
    max_rows: u32,
    logits: bool,
) -> Result<()> {
    let vocab = session.config().vocab_size;
    let length = positions.end - positions.start;
    if length == 0 {
        return Ok(());
    }
    // Whole sequences together, or parts of one.
    let together = (max_rows / length).max(1);
    let part = length.min(max_rows);
    for first in (0..sequences).step_by(together as usize) {
        for start in positions.clone().step_by(part as usize) {
            let end = positions.end.min(start + part);
            let mut rows = Vec::new();
            let mut last = Vec::new();
            for sequence in first..sequences.min(first + together) {
                let ids = (start..end).zip(prompt_ids(start..end, vocab));
                rows.extend(ids.map(|(position, token)| Row {
                    sequence,
                    position,
                    token,
                }));
                last.push(rows.len() as u32 - 1);
            }
            let wanted = if logits && end == positions.end {
                last
            } else {
                Vec::new()
            };
            session.step(&rows, &wanted).await?;
        }
    }
    Ok(())
}

/// The test on sequences that [`fill`] made.
pub async fn run_once(session: &mut Session, test: Test, max_rows: u32) -> Result<Sample> {
    let vocab = session.config().vocab_size;
    if test.depth == 0 {
        fill(session, test, max_rows).await?;
    }
    let end = test.depth + test.prompt;
    let start = Instant::now();
    if test.gen_tokens == 0 {
        feed(session, test.sequences, test.depth..end, max_rows, true).await?;
        let ns = elapsed_ns(start);
        return Ok(Sample {
            ns,
            first_ns: Some(ns),
            gaps_ns: Vec::new(),
        });
    }
    // The last token of the prompt, or the only one, is what the first decode step takes.
    let position = test.depth + test.prompt.max(1) - 1;
    feed(
        session,
        test.sequences,
        test.depth..position,
        max_rows,
        false,
    )
    .await?;
    let token = prompt_ids(position..position + 1, vocab)
        .next()
        .unwrap_or(0);
    let row = |sequence| Row {
        sequence,
        position,
        token,
    };
    let rows: Vec<Row> = (0..test.sequences).map(row).collect();
    // The first new token comes out of the last row of the prompt: one more than the decode steps that are timed.
    let new_tokens = test.gen_tokens as usize + 1;
    let mut tokens = vec![Vec::with_capacity(new_tokens); rows.len()];
    let mut times = Vec::with_capacity(new_tokens);
    let mut take = |sequence: usize, token: u32| {
        // A step's tokens come together.
        if sequence == 0 {
            times.push(elapsed_ns(start));
        }
        tokens[sequence].push(token);
        ControlFlow::Continue(())
    };
    session
        .continue_batch(&rows, &SamplerConfig::GREEDY, Some(new_tokens), &mut take)
        .await?;
    if times.len() != new_tokens {
        let found = times.len();
        let line = format!("{}: {found} tokens came, not {new_tokens}", test.name());
        return Err(CliError::NumericCheck(line).into());
    }
    // They have the same tokens before, so the company must not matter.
    if let Some(other) = tokens.iter().position(|others| *others != tokens[0]) {
        let line = format!(
            "{}: sequence {other} of {} went on otherwise than the first",
            test.name(),
            test.sequences
        );
        return Err(CliError::NumericCheck(line).into());
    }
    let (first, last) = (times[0], times[new_tokens - 1]);
    let gaps_ns = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    Ok(if test.prompt == 0 {
        Sample {
            ns: last - first,
            first_ns: None,
            gaps_ns,
        }
    } else {
        Sample {
            ns: last,
            first_ns: Some(first),
            gaps_ns,
        }
    })
}

/// 50, 90 and 99 of 100 are not above these: the smallest value of which that is true. `None` of nothing.
pub fn percentiles(mut values: Vec<u64>) -> Option<[u64; 3]> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let at = |percent: usize| {
        let rank = (percent * values.len()).div_ceil(100);
        values[rank.saturating_sub(1).min(last)]
    };
    Some([at(50), at(90), at(99)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(prompt: u32, gen_tokens: u32) -> Test {
        Test {
            prompt,
            gen_tokens,
            depth: 0,
            sequences: 1,
        }
    }

    #[test]
    fn a_test_knows_the_positions_that_it_needs() {
        let positions = |prompt, gen_tokens| test(prompt, gen_tokens).positions();
        assert_eq!(positions(512, 0), 512);
        assert_eq!(positions(0, 128), 129);
        assert_eq!(positions(512, 128), 640);
        assert_eq!(positions(u32::MAX, 1), u32::MAX);
        let deep = Test {
            depth: 64,
            ..test(0, 4)
        };
        assert_eq!(
            (deep.positions(), deep.name()),
            (69, "tg4 @ d64".to_owned())
        );
    }

    #[test]
    fn prompts_stay_in_the_vocabulary() {
        assert!(prompt_ids(0..1000, 7).all(|id| id < 7));
        assert_eq!(
            prompt_ids(0..3, 32000).collect::<Vec<_>>(),
            [1, 7920, 15839]
        );
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(percentiles(Vec::new()), None);
        assert_eq!(percentiles(vec![5]), Some([5, 5, 5]));
        assert_eq!(percentiles((1..=100).rev().collect()), Some([50, 90, 99]));
        assert_eq!(percentiles(vec![4, 1, 3, 2]), Some([2, 4, 4]));
    }
}
