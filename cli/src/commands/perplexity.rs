//! `plateau perplexity`: how well a model predicts a text.

use crate::args::{Perplexity, Score};
use crate::console::{Console, Unit, count, print_json, print_line, rate};
use crate::exit::usage;
use crate::load;
use crate::text::read_text;
use anyhow::Result;
use plateau::eval::{self, Subject, WindowOptions, Windows, score_text};
use plateau::tokenizer::Tokenizer;
use serde::Serialize;
use std::path::Path;
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

/// A text, and how it is cut.
pub struct Text<'a> {
    pub file: &'a Path,
    pub text: &'a str,
    pub size: u32,
    /// Windows at most.
    pub most: Option<u32>,
    pub score: Score,
}

impl Text<'_> {
    /// At least one window with something to predict.
    pub fn windows(&self, tokenizer: &Tokenizer, bos: Option<u32>) -> Result<Windows> {
        let ids = tokenizer.encode(self.text, false)?;
        let size = self.size as usize;
        let options = WindowOptions {
            size,
            bos,
            most: self.most.map(|most| most as usize),
            score: match self.score {
                Score::All => eval::Score::All,
                Score::SecondHalf => eval::Score::SecondHalf,
            },
        };
        let windows = Windows::cut(&ids, &options);
        if windows.predictions() == 0 {
            let line = format!(
                "{}: {} tokens give no prediction with --ctx-size {size}: one window of the text has {} tokens",
                self.file.display(),
                ids.len(),
                size - usize::from(bos.is_some())
            );
            return Err(usage(line));
        }
        Ok(windows)
    }
}

/// Tokens of a window, the begin token included; `limit` is the model's.
pub fn window_size(asked: Option<u32>, limit: u32) -> u32 {
    asked.unwrap_or(DEFAULT_WINDOW.min(limit).max(2))
}

pub async fn run(args: &Perplexity, console: &Console) -> Result<()> {
    let text = read_text(&args.file)?;
    let checkpoint = load::checkpoint(args.load.model.model.as_deref()).await?;
    let size = window_size(args.ctx_size, checkpoint.config.max_position_embeddings);
    let options = load::options(&args.load.format, Some(size))?;
    let bos = if args.no_bos {
        None
    } else {
        checkpoint.generation.bos_token_id
    };
    let tokenizer = load::tokenizer(&checkpoint).await?;
    let text = Text {
        file: &args.file,
        text: &text,
        size,
        most: args.chunks,
        score: args.score,
    };
    let windows = text.windows(&tokenizer, bos)?;
    let mut session = load::session(&checkpoint, &args.load, &options, console).await?;

    let progress = console.progress("windows", windows.ids.len() as u64, Unit::Steps);
    let start = Instant::now();
    let name = checkpoint.folder.name();
    let mut subjects = [Subject {
        name: &name,
        session: &mut session,
    }];
    let (_, scores) = score_text(None, &mut subjects, &windows, &mut |done| {
        progress.set(done)
    })
    .await?;
    drop(progress);
    let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);

    let losses = scores[0].losses;
    let nll = losses.mean();
    let measured = Measured {
        model: name.clone(),
        format: load::format_label(&checkpoint, options.quant),
        perplexity: nll.exp(),
        standard_error: nll.exp() * losses.standard_error(),
        nll,
        nll_standard_error: losses.standard_error(),
        tokens: losses.count(),
        windows: windows.ids.len(),
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
        rate(windows.ids.len() * size as usize, elapsed)
    ));
    Ok(())
}
