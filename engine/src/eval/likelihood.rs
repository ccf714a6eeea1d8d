//! Log-likelihoods of continuations, many at a time.
//!
//! The continuations of a question mostly share their context, so the context runs once: what the inputs have in common
//! is computed for all, then each continuation in turn on top of it, over the keys and values of the one before. A step has
//! rows of as many questions as the session has sequences. A row's logits do not depend on the others of its step, so
//! neither do the results.

use super::EvalError;
use super::statistics::LogitRow;
use crate::session::{Row, Session};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::ops::Range;

/// A continuation after its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Context and continuation.
    pub ids: Vec<u32>,
    /// Ids at the end that are the continuation: at least one, and fewer than there are ids.
    pub scored: usize,
}

impl Request {
    /// What the model is given: the last id is only predicted.
    fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len().saturating_sub(1)]
    }

    /// The positions whose logits count.
    fn rows(&self) -> Range<usize> {
        self.inputs().len().saturating_sub(self.scored)..self.inputs().len()
    }
}

/// What a model thinks of a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the ln of its ids' probabilities.
    pub log_likelihood: f64,
    /// Whether greedy decoding would give it.
    pub greedy: bool,
}

impl Default for Likelihood {
    fn default() -> Self {
        Self {
            log_likelihood: 0.0,
            greedy: true,
        }
    }
}

/// A row of a step, and the requests of its question that it is part of.
struct Planned {
    row: Row,
    question: usize,
    requests: Range<usize>,
}

/// Scores the continuations of each question. `progress` gets the number of questions done.
///
/// # Errors
/// Inputs longer than the context; a logit that is not finite. `model` is its name in messages.
pub async fn likelihoods(
    model: &str,
    session: &mut Session,
    questions: &[Vec<Request>],
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Vec<Likelihood>>, EvalError> {
    let mut results: Vec<Vec<Likelihood>> = questions
        .iter()
        .map(|requests| vec![Likelihood::default(); requests.len()])
        .collect();
    // Questions of a like length together: the steps stay full.
    let length = |question: usize| questions[question].iter().map(|r| r.ids.len()).max();
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|&question| Reverse(length(question)));
    let sequences = session.parts().0.capacity.max_sequences as usize;
    let mut done = 0;
    for batch in order.chunks(sequences) {
        for sequence in 0..batch.len() {
            session.reset(sequence as u32);
        }
        let shared: Vec<usize> = batch
            .iter()
            .map(|&question| common_inputs(&questions[question]))
            .collect();
        let mut planned = Vec::new();
        for (sequence, (&question, &shared)) in batch.iter().zip(&shared).enumerate() {
            let all = 0..questions[question].len();
            plan_rows(&mut planned, questions, question, all, sequence, 0..shared);
        }
        run(model, session, questions, &planned, &mut results).await?;
        let most = batch
            .iter()
            .map(|&question| questions[question].len())
            .max();
        for request in 0..most.unwrap_or(0) {
            planned.clear();
            for (sequence, (&question, &shared)) in batch.iter().zip(&shared).enumerate() {
                if let Some(of) = questions[question].get(request) {
                    if shared == 0 {
                        session.reset(sequence as u32);
                    }
                    let own = shared..of.inputs().len();
                    let requests = request..request + 1;
                    plan_rows(&mut planned, questions, question, requests, sequence, own);
                }
            }
            run(model, session, questions, &planned, &mut results).await?;
        }
        done += batch.len() as u64;
        progress(done);
    }
    Ok(results)
}

/// Inputs that all requests begin with.
fn common_inputs(requests: &[Request]) -> usize {
    let Some((first, others)) = requests.split_first() else {
        return 0;
    };
    let common = |other: &Request| {
        let pairs = first.inputs().iter().zip(other.inputs());
        pairs.take_while(|(a, b)| a == b).count()
    };
    others
        .iter()
        .map(common)
        .min()
        .unwrap_or(first.inputs().len())
}

/// The rows at `positions` of `requests`, which all have the same inputs there.
fn plan_rows(
    planned: &mut Vec<Planned>,
    questions: &[Vec<Request>],
    question: usize,
    requests: Range<usize>,
    sequence: usize,
    positions: Range<usize>,
) {
    for position in positions {
        planned.push(Planned {
            row: Row {
                sequence: sequence as u32,
                position: position as u32,
                token: questions[question][requests.start].ids[position],
            },
            question,
            requests: requests.clone(),
        });
    }
}

/// Runs rows in steps that the session can take, and adds what they say to the results.
async fn run(
    model: &str,
    session: &mut Session,
    questions: &[Vec<Request>],
    planned: &[Planned],
    results: &mut [Vec<Likelihood>],
) -> Result<(), EvalError> {
    let vocab = session.config().vocab_size as usize;
    let most_rows = session.parts().0.capacity.max_rows as usize;
    let most_logits = session.logit_rows();
    let counts = |planned: &Planned| {
        let position = planned.row.position as usize;
        let requests = &questions[planned.question][planned.requests.clone()];
        requests
            .iter()
            .any(|request| request.rows().contains(&position))
    };
    let mut rest = planned;
    while !rest.is_empty() {
        let mut wanted = Vec::new();
        let mut rows = 0;
        for row in rest.iter().take(most_rows) {
            if counts(row) {
                if wanted.len() == most_logits {
                    break;
                }
                wanted.push(rows as u32);
            }
            rows += 1;
        }
        let (step, after) = rest.split_at(rows);
        rest = after;
        let rows: Vec<Row> = step.iter().map(|planned| planned.row).collect();
        let logits = session.step(&rows, &wanted).await?;
        let read: Vec<Option<LogitRow<'_>>> =
            logits.par_chunks_exact(vocab).map(LogitRow::new).collect();
        for (&row, read) in wanted.iter().zip(read) {
            let planned = &step[row as usize];
            add(planned, read.as_ref(), questions, results).ok_or_else(|| {
                EvalError::NotFinite {
                    model: model.to_owned(),
                    place: format!(
                        "row {}, position {}",
                        planned.question, planned.row.position
                    ),
                }
            })?;
        }
    }
    Ok(())
}

/// `None` where a logit is not finite.
fn add(
    planned: &Planned,
    logits: Option<&LogitRow<'_>>,
    questions: &[Vec<Request>],
    results: &mut [Vec<Likelihood>],
) -> Option<()> {
    let logits = logits?;
    let position = planned.row.position as usize;
    for request in planned.requests.clone() {
        let of = &questions[planned.question][request];
        if of.rows().contains(&position) {
            let target = of.ids[position + 1];
            let result = &mut results[planned.question][request];
            result.log_likelihood += logits.log_probability(target)?;
            result.greedy &= logits.top == target as usize;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: &[u32], scored: usize) -> Request {
        Request {
            ids: ids.to_vec(),
            scored,
        }
    }

    #[test]
    fn the_last_id_is_only_predicted() {
        let request = request(&[1, 7, 8, 9], 2);
        assert_eq!(request.inputs(), [1, 7, 8]);
        assert_eq!(request.rows(), 1..3);
    }

    #[test]
    fn what_all_inputs_begin_with_runs_once() {
        let common = |requests: &[Request]| common_inputs(requests);
        assert_eq!(common(&[]), 0);
        assert_eq!(common(&[request(&[1, 2, 3, 4], 1)]), 3);
        assert_eq!(
            common(&[request(&[1, 2, 3, 4], 2), request(&[1, 2, 5], 1)]),
            2
        );
        assert_eq!(
            common(&[request(&[1, 2, 3], 1), request(&[1, 2, 3, 4], 2)]),
            2
        );
        assert_eq!(common(&[request(&[1, 2], 1), request(&[3, 2], 1)]), 0);
    }
}
