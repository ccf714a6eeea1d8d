//! Text from files, and from pieces of text to what may be printed.

use crate::exit::{CliError, usage};
use anyhow::Result;
use std::io::Read;
use std::path::Path;

/// A file of UTF-8; `-` is stdin.
pub fn read_text(file: &Path) -> Result<String> {
    let stdin = file == Path::new("-");
    let name = if stdin {
        "stdin".to_owned()
    } else {
        file.display().to_string()
    };
    let mut bytes = Vec::new();
    let read = if stdin {
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = read.map_err(|source| CliError::File {
        verb: "read",
        path: name.clone(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        usage(format!("{name}: byte {position} is not UTF-8"))
    })
}

/// The text less one newline at its end.
pub fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// Holds text back while it may be the beginning of a stop string.
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub text: String,
    /// A stop string came: the text ends before it, and nothing may follow.
    pub stopped: bool,
}

impl StopFilter {
    /// None of `stops` may be empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// The text that can be printed now that `piece` came.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(end) = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min()
        {
            self.held.truncate(end);
            return Passed {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let kept = self
            .held
            .split_off(self.held.len() - self.longest_beginning());
        Passed {
            text: std::mem::replace(&mut self.held, kept),
            stopped: false,
        }
    }

    /// What was held back: no more text comes, so it was no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that begin a stop string.
    fn longest_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let beginnings = stop
                .char_indices()
                .map(|(end, _)| end)
                .filter(|&end| end > 0);
            beginnings
                .filter(|&end| self.held.ends_with(&stop[..end]))
                .max()
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(stops.iter().map(|&stop| stop.to_owned()).collect())
    }

    fn go_on(text: &str) -> Passed {
        Passed {
            text: text.to_owned(),
            stopped: false,
        }
    }

    fn stop(text: &str) -> Passed {
        Passed {
            text: text.to_owned(),
            stopped: true,
        }
    }

    #[test]
    fn one_newline_at_the_end_is_dropped() {
        for (text, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a", "a"),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(without_last_newline(text.to_owned()), expected);
        }
    }

    #[test]
    fn without_stop_strings_everything_passes_at_once() {
        let mut filter = filter(&[]);
        assert_eq!(filter.push("The "), go_on("The "));
        assert_eq!(filter.push(""), go_on(""));
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_not_printed() {
        let mut filter = filter(&["\nUser:"]);
        assert_eq!(filter.push("Hello.\n"), go_on("Hello."));
        assert_eq!(filter.push("Us"), go_on(""));
        assert_eq!(filter.push("er: and"), stop(""));
    }

    #[test]
    fn a_beginning_that_does_not_go_on_is_printed_after_all() {
        let mut filter = filter(&["END"]);
        assert_eq!(filter.push("the EN"), go_on("the "));
        assert_eq!(filter.push("GLISH E"), go_on("ENGLISH "));
        assert_eq!(filter.push("EN"), go_on("E"));
        assert_eq!(filter.finish(), "EN");
    }

    #[test]
    fn a_beginning_may_begin_inside_another() {
        let mut filter = filter(&["aab"]);
        assert_eq!(filter.push("aa"), go_on(""));
        assert_eq!(filter.push("a"), go_on("a"));
        assert_eq!(filter.push("b"), stop(""));
    }

    #[test]
    fn the_first_stop_string_in_the_text_wins() {
        assert_eq!(filter(&["two", "one"]).push("zero one two"), stop("zero "));
        assert_eq!(filter(&["ab", "abc"]).push("xabc"), stop("x"));
    }

    #[test]
    fn letters_of_several_bytes_are_never_cut() {
        let mut filter = filter(&["éà"]);
        assert_eq!(filter.push("caf\u{e9}"), go_on("caf"));
        assert_eq!(filter.push("\u{e8}"), go_on("\u{e9}\u{e8}"));
        assert_eq!(filter.push("\u{e9}\u{e0}"), stop(""));
    }
}
