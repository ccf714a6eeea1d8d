//! The command line of Plateau: parse, run, exit code.

mod args;
mod commands;
mod console;
mod exit;
mod legacy;
mod load;
mod results;
mod rows;
mod shape;
mod text;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use console::{Console, stderr_line};
use exit::Code;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(run() as u8)
}

fn run() -> Code {
    quiet_vulkan_layer();
    let words = match legacy::rewrite(std::env::args_os()) {
        Ok(words) => words,
        Err(line) => return report_usage(&line, &[]),
    };
    let args = match args::Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => return report_clap(&error),
    };
    let console = match Console::new(args.quiet) {
        Ok(console) => console,
        Err(error) => return report(&error.into()),
    };
    match pollster::block_on(commands::run(args.command, &console)) {
        Ok(()) => Code::Done,
        Err(error) => report(&error),
    }
}

/// Mesa's layer that reorders devices for a desktop prints errors where there is none, as in a container. The order of
/// devices is chosen here anyway.
#[cfg(target_os = "linux")]
fn quiet_vulkan_layer() {
    if std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() {
        // SAFETY: no other thread runs yet that could read the environment meanwhile: this is the first thing that main does.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

#[cfg(not(target_os = "linux"))]
fn quiet_vulkan_layer() {}

fn report(error: &anyhow::Error) -> Code {
    let code = exit::code(error);
    // An interrupt was asked for; a closed stdout is how `head` says that it has enough.
    if code != Code::Interrupted && code != Code::Done {
        stderr_line(&format!("plateau: error: {}", exit::line(error)));
        if let Some(hint) = exit::hint(error) {
            stderr_line(&format!("plateau: hint: {hint}"));
        }
    }
    code
}

fn report_usage(line: &str, hints: &[String]) -> Code {
    stderr_line(&format!("plateau: error: {line}"));
    for hint in hints {
        stderr_line(&format!("plateau: hint: {hint}"));
    }
    Code::Usage
}

/// `plateau generate Once upon a time`
fn is_a_word_too_many(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::UnknownArgument
        && matches!(
            error.get(ContextKind::InvalidArg),
            Some(ContextValue::String(word)) if !word.starts_with('-')
        )
}

fn report_clap(error: &clap::Error) -> Code {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Fails only where nobody reads.
            let _ = error.print();
            Code::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Code::Usage
        }
        _ => {
            let (line, mut hints) = exit::usage_lines(&error.render().to_string());
            if is_a_word_too_many(error) {
                hints.insert(0, "a text of several words needs quotes".to_owned());
            }
            report_usage(&line, &hints)
        }
    }
}
