//! `plateau generate`: continue a text.

use crate::args::Generate;
use crate::console::{Console, count, print, print_json, rate};
use crate::exit::CliError;
use crate::load;
use crate::text::{StopFilter, read_text, without_last_newline};
use anyhow::Result;
use plateau::checkpoint::LoadError;
use plateau::sampler::SamplerConfig;
use plateau::session::{Finish, GenerateReport, SessionError};
use plateau::tokenizer::TextStream;
use serde::Serialize;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;

pub async fn run(args: Generate, console: &Console) -> Result<()> {
    let prompt = prompt(&args, console)?;
    if prompt.is_empty() {
        return Err(SessionError::EmptyPrompt.into());
    }
    let options = load::options(&args.load.format, args.ctx_size)?;
    let checkpoint = load::checkpoint(args.load.model.model.as_deref()).await?;
    let tokenizer = load::tokenizer(&checkpoint).await?;
    let ids = tokenizer.encode(&prompt, true)?;
    load::check_length(ids.len(), &checkpoint.config, &options)?;
    let mut session = load::session(&checkpoint, &args.load, &options, console).await?;

    let sampler = sampler(&args);
    if sampler.temperature > 0.0 {
        console.note(format!("seed {}", sampler.seed));
    }
    let max_new_tokens = usize::try_from(args.n_predict).ok();
    let mut continuation = Continuation {
        stream: tokenizer.stream(),
        filter: StopFilter::new(args.stop),
        end_tokens: if args.ignore_eos {
            Vec::new()
        } else {
            checkpoint.generation.eos_token_ids.clone()
        },
        json: args.json,
        text: String::new(),
        pieces: 0,
        in_line: false,
        ended: None,
        failure: None,
    };
    let report = session
        .generate(&ids, &sampler, max_new_tokens, &mut |id| {
            continuation.token(id, console)
        })
        .await;
    if report.is_ok() && continuation.failure.is_none() {
        continuation.finish()?;
    }
    if continuation.in_line {
        console.break_line()?;
    }
    if let Some(failure) = continuation.failure.take() {
        return Err(failure);
    }
    let report = report?;

    let reason = reason(report.finish, continuation.ended);
    if args.json {
        print_json(&end(reason, &continuation.text, &report, sampler))?;
    }
    if reason == Reason::ContextFull {
        console.note(format!(
            "the context of {} tokens is full: the text ends here",
            session.context_size()
        ));
    }
    console.note(stats(&report));
    if reason == Reason::Interrupted {
        Err(CliError::Interrupted.into())
    } else {
        Ok(())
    }
}

/// The text to continue. A file's or stdin's last newline is the editor's or the shell's, not the text's.
fn prompt(args: &Generate, console: &Console) -> Result<String> {
    let file = match (&args.text, &args.prompt, &args.file) {
        (Some(text), _, _) if text == "-" => Path::new("-"),
        (Some(text), _, _) | (None, Some(text), _) => return Ok(text.clone()),
        (None, None, Some(file)) => file,
        // clap requires one of the three.
        (None, None, None) => return Ok(String::new()),
    };
    if file == Path::new("-") && io::stdin().is_terminal() {
        console.note("type the text to continue; Ctrl-D on a line of its own ends it");
    }
    Ok(without_last_newline(read_text(file)?))
}

fn sampler(args: &Generate) -> SamplerConfig {
    SamplerConfig {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        seed: args.seed.unwrap_or_else(random_seed),
    }
}

/// From the operating system, through the keys of a hash; 32 bits are enough and can be typed again.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0) >> 32
}

/// What ended a continuation from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    EndToken,
    StopString,
    Interrupted,
}

/// Why there is no more text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    EndToken,
    StopString,
    Length,
    ContextFull,
    Interrupted,
}

fn reason(finish: Finish, ended: Option<Ended>) -> Reason {
    match (ended, finish) {
        (Some(Ended::EndToken), _) => Reason::EndToken,
        (Some(Ended::StopString), _) => Reason::StopString,
        (Some(Ended::Interrupted), _) => Reason::Interrupted,
        (None, Finish::ContextFull) => Reason::ContextFull,
        (None, Finish::Length | Finish::Stopped) => Reason::Length,
    }
}

/// Text on its way to stdout.
struct Continuation<'a> {
    stream: TextStream<'a>,
    filter: StopFilter,
    end_tokens: Vec<u32>,
    json: bool,
    text: String,
    pieces: usize,
    /// Text was printed, and no newline at its end.
    in_line: bool,
    ended: Option<Ended>,
    failure: Option<anyhow::Error>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Piece<'a> {
    index: usize,
    /// `null` for text that was held back until the end.
    id: Option<u32>,
    text: &'a str,
}

impl Continuation<'_> {
    fn token(&mut self, id: u32, console: &Console) -> ControlFlow<()> {
        // Before the first token there is nothing to end cleanly: Ctrl-C need not wait for a long prompt.
        console.watch_for_interrupt();
        if self.end_tokens.contains(&id) {
            self.ended = Some(Ended::EndToken);
        } else if let Err(failure) = self.write_token(id) {
            self.failure = Some(failure);
        }
        if self.ended.is_none() && console.interrupted() {
            self.ended = Some(Ended::Interrupted);
        }
        if self.ended.is_some() || self.failure.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn write_token(&mut self, id: u32) -> Result<()> {
        let passed = self.filter.push(&self.stream.push(id)?);
        if passed.stopped {
            self.ended = Some(Ended::StopString);
        }
        self.write(Some(id), &passed.text)
    }

    /// What was held back, unless a stop string cut it off.
    fn finish(&mut self) -> Result<()> {
        if self.ended == Some(Ended::StopString) {
            return Ok(());
        }
        let rest: Result<String, LoadError> = self.stream.finish();
        let mut passed = self.filter.push(&rest?);
        if passed.stopped {
            self.ended = Some(Ended::StopString);
        } else {
            passed.text.push_str(&self.filter.finish());
        }
        if passed.text.is_empty() {
            Ok(())
        } else {
            self.write(None, &passed.text)
        }
    }

    fn write(&mut self, id: Option<u32>, text: &str) -> Result<()> {
        if self.json {
            print_json(&Piece {
                index: self.pieces,
                id,
                text,
            })?;
            self.text.push_str(text);
        } else if !text.is_empty() {
            print(text)?;
            self.in_line = !text.ends_with('\n');
        }
        self.pieces += 1;
        Ok(())
    }
}

/// The last line of `--json`.
#[derive(Serialize)]
struct End<'a> {
    finish: Reason,
    text: &'a str,
    prompt_tokens: usize,
    /// The end token counts.
    new_tokens: usize,
    /// `null` where there was nothing to time: see [`rates`].
    prompt_tokens_per_second: Option<f64>,
    new_tokens_per_second: Option<f64>,
    /// `null` where nothing is random.
    seed: Option<u64>,
}

fn end<'a>(
    finish: Reason,
    text: &'a str,
    report: &GenerateReport,
    sampler: SamplerConfig,
) -> End<'a> {
    let (prompt, decode) = rates(report);
    End {
        finish,
        text,
        prompt_tokens: report.prompt_tokens,
        new_tokens: report.new_tokens,
        prompt_tokens_per_second: prompt,
        new_tokens_per_second: decode,
        seed: (sampler.temperature > 0.0).then_some(sampler.seed),
    }
}

/// Tokens per second of the prompt and of the continuation. The first new token comes out of the prompt's last row: its
/// time is the prompt's, and from the second one on there is a rate of decoding.
fn rates(report: &GenerateReport) -> (Option<f64>, Option<f64>) {
    (
        (report.new_tokens > 0).then(|| rate(report.prompt_tokens, report.prefill_ns)),
        (report.new_tokens > 1).then(|| rate(report.new_tokens - 1, report.decode_ns)),
    )
}

fn stats(report: &GenerateReport) -> String {
    let (prompt, decode) = rates(report);
    let with_rate = |tokens, rate: Option<f64>| {
        let rate = rate.map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"));
        format!("{}{rate}", count(tokens, "token"))
    };
    format!(
        "prompt: {}; generated: {}",
        with_rate(report.prompt_tokens, prompt),
        with_rate(report.new_tokens, decode)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_the_text_here_goes_before_what_the_session_says() {
        assert_eq!(
            reason(Finish::Stopped, Some(Ended::EndToken)),
            Reason::EndToken
        );
        assert_eq!(
            reason(Finish::Length, Some(Ended::StopString)),
            Reason::StopString
        );
        assert_eq!(reason(Finish::ContextFull, None), Reason::ContextFull);
        assert_eq!(reason(Finish::Length, None), Reason::Length);
    }

    #[test]
    fn the_first_new_token_is_not_part_of_the_decode_rate() {
        let report = GenerateReport {
            finish: Finish::Length,
            prompt_tokens: 10,
            new_tokens: 5,
            prefill_ns: 1_000_000_000,
            decode_ns: 2_000_000_000,
        };
        assert_eq!(
            stats(&report),
            "prompt: 10 tokens, 10.0 tokens/s; generated: 5 tokens, 2.0 tokens/s"
        );
        let one = GenerateReport {
            new_tokens: 1,
            ..report
        };
        assert_eq!(
            stats(&one),
            "prompt: 10 tokens, 10.0 tokens/s; generated: 1 token"
        );
        let none = GenerateReport {
            new_tokens: 0,
            ..report
        };
        assert_eq!(stats(&none), "prompt: 10 tokens; generated: 0 tokens");
    }

    #[test]
    fn seeds_differ_and_are_short() {
        let (one, two) = (random_seed(), random_seed());
        assert_ne!(one, two);
        assert!(one <= u64::from(u32::MAX));
    }
}
