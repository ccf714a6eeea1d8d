//! The two output streams and Ctrl-C. stdout carries results only; everything else goes to stderr.

use crate::exit::CliError;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use plateau::session::LoadProgress;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a command talks to the person that called it.
pub struct Console {
    quiet: bool,
    interrupt: Interrupt,
}

/// What Ctrl-C does: the first asks a loop that watches to end, a second, or the first where nothing watches, ends the
/// program.
#[derive(Clone, Default)]
struct Interrupt {
    watched: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl Console {
    /// Takes over Ctrl-C.
    pub fn new(quiet: bool) -> Result<Self, ctrlc::Error> {
        let interrupt = Interrupt::default();
        let seen = interrupt.clone();
        ctrlc::set_handler(move || {
            let again = seen.asked.swap(true, Ordering::SeqCst);
            if again || !seen.watched.load(Ordering::SeqCst) {
                // After the ^C and a progress bar that may stand there.
                if io::stderr().is_terminal() {
                    stderr_line("");
                }
                std::process::exit(crate::exit::Code::Interrupted as i32);
            }
        })?;
        Ok(Self { quiet, interrupt })
    }

    /// From here on the caller asks [`Console::interrupted`] often.
    pub fn watch_for_interrupt(&self) {
        self.interrupt.watched.store(true, Ordering::SeqCst);
    }

    pub fn interrupted(&self) -> bool {
        self.interrupt.asked.load(Ordering::SeqCst)
    }

    /// A line on stderr, unless -q.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(line.as_ref());
        }
    }

    /// Ends a line of the continuation, so that what follows starts on its own line of the terminal. A pipe or a file
    /// gets the continuation alone.
    pub fn break_line(&self) -> Result<(), CliError> {
        match line_break(
            self.quiet,
            io::stdout().is_terminal(),
            io::stderr().is_terminal(),
        ) {
            None => {}
            Some(Stream::Stdout) => print("\n")?,
            Some(Stream::Stderr) => stderr_line(""),
        }
        Ok(())
    }

    fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// A bar on stderr if that is a terminal and -q was not given, else nothing.
    pub fn progress(&self, what: &str, length: u64, unit: Unit) -> Progress {
        let target = if self.shows_progress() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let template = match unit {
            Unit::Bytes => "{msg} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}",
            Unit::Steps => "{msg} [{bar:30}] {pos}/{len}{left}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        // Before the first step nothing is known about the time.
        let left = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            if state.pos() > 0 {
                let _ = write!(text, ", {:#} left", HumanDuration(state.eta()));
            }
        };
        bar.set_style(style.progress_chars("=> ").with_key("left", left));
        bar.set_message(what.to_owned());
        // Shown at once: the first step may take long.
        bar.tick();
        Progress { bar }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// Which stream ends the line that the continuation left open on a terminal: stdout if that is the terminal, else stderr,
/// whose next line would follow the text of a pipe's reader directly.
fn line_break(quiet: bool, stdout_is_terminal: bool, stderr_is_terminal: bool) -> Option<Stream> {
    if stdout_is_terminal {
        Some(Stream::Stdout)
    } else {
        (stderr_is_terminal && !quiet).then_some(Stream::Stderr)
    }
}

/// What a progress bar counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    Bytes,
    Steps,
}

/// A progress bar; it is wiped when dropped.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    pub fn load(&self, progress: LoadProgress) {
        if self.bar.length() != Some(progress.total) {
            self.bar.set_length(progress.total);
        }
        self.bar.set_position(progress.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line on stderr, whatever -q says. Nobody can be told if that fails.
pub fn stderr_line(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Text on stdout, at once.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(CliError::Stdout)
}

pub fn print_line(text: &str) -> Result<(), CliError> {
    print(&format!("{text}\n"))
}

/// One JSON object on one line of stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::Stdout(error.into()))?;
    print_line(&text)
}

/// `12.3 MiB` and the like.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 token`, `2 tokens`
pub fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Tokens per second; 0 where no time passed.
pub fn rate(tokens: usize, ns: u64) -> f64 {
    if ns == 0 {
        0.0
    } else {
        tokens as f64 * 1e9 / ns as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_by_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(13 << 30), "13.0 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn a_line_ends_on_the_terminal_and_never_in_a_pipe() {
        for quiet in [false, true] {
            assert_eq!(line_break(quiet, true, true), Some(Stream::Stdout));
            assert_eq!(line_break(quiet, true, false), Some(Stream::Stdout));
            assert_eq!(line_break(quiet, false, false), None);
        }
        assert_eq!(line_break(false, false, true), Some(Stream::Stderr));
        assert_eq!(line_break(true, false, true), None);
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            [0, 1, 2].map(|n| count(n, "token")),
            ["0 tokens", "1 token", "2 tokens"]
        );
    }

    #[test]
    fn a_rate_is_finite() {
        assert_eq!(rate(10, 0), 0.0);
        assert_eq!(rate(10, 2_000_000_000), 5.0);
    }
}
