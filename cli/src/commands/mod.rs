//! One file for each command.

mod bench;
mod bench_ops;
mod completions;
mod devices;
mod eval;
mod generate;
mod inspect;
mod logits;
mod perplexity;
mod quantize;

use crate::args::Command;
use crate::console::Console;
use anyhow::Result;

pub async fn run(command: Command, console: &Console) -> Result<()> {
    match command {
        Command::Generate(args) => generate::run(args, console).await,
        Command::Devices(args) => devices::run(&args).await,
        Command::Inspect(args) => inspect::run(&args).await,
        Command::Logits(args) => logits::run(&args, console).await,
        Command::Perplexity(args) => perplexity::run(&args, console).await,
        Command::Eval(args) => eval::run(&args, console).await,
        Command::Bench(args) => bench::run(&args, console).await,
        Command::BenchOps(args) => bench_ops::run(&args, console).await,
        Command::Quantize(args) => quantize::run(&args, console).await,
        Command::Completions(args) => completions::run(&args),
    }
}
