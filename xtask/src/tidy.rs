//! `cargo xtask tidy`: the rules of layout and style that a program can check. Also an ordinary test.
//!
//! Most checks look at text, not at syntax trees: they are right about code that rustfmt formatted, and short.

mod imports;
mod kernels;
mod prose;
mod rust;
mod text;

use crate::process;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::Path;
use text::File;

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From the top of the workspace, with `/`.
    path: String,
    /// From 1; 0 where the problem has no line.
    line: usize,
    what: String,
}

impl Problem {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Prints every problem; any is an error.
pub fn run() -> Result<()> {
    let problems = check(process::root())?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("1 problem"),
        count => bail!("{count} problems"),
    }
}

/// Checks the workspace at `root`.
fn check(root: &Path) -> Result<Vec<Problem>> {
    let files = text::read_all(root).with_context(|| format!("reading {}", root.display()))?;
    let kernels: Vec<kernels::KernelText> = plateau_shaders::KERNELS
        .iter()
        .map(|kernel| kernels::KernelText {
            name: kernel.name.to_owned(),
            parts: kernel.source.iter().map(|&part| part.to_owned()).collect(),
        })
        .collect();
    let mut problems = Vec::new();
    for file in &files {
        whitespace(file, &mut problems);
        if file.path.ends_with(".rs") {
            rust::check(file, &mut problems);
        }
        if file.path.ends_with(".md") {
            prose::check(file, root, &mut problems);
        }
    }
    imports::check(&files, &mut problems);
    kernels::check(&files, &kernels, &mut problems);
    problems.sort();
    Ok(problems)
}

fn whitespace(file: &File, problems: &mut Vec<Problem>) {
    for (line, text) in file.lines() {
        if text.ends_with([' ', '\t', '\r']) {
            problems.push(Problem::new(
                &file.path,
                line,
                "white space at the end of the line",
            ));
        }
        if text::has_word(text, concat!("TO", "DO")) || text::has_word(text, concat!("FIX", "ME")) {
            problems.push(Problem::new(
                &file.path,
                line,
                "unfinished work belongs in an issue",
            ));
        }
    }
    if !file.text.ends_with('\n') || file.text.ends_with("\n\n") {
        problems.push(Problem::new(&file.path, 0, "must end with one line break"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let problems = check(process::root()).expect("the workspace can be read");
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(
            lines.is_empty(),
            "{} problems:\n{}",
            lines.len(),
            lines.join("\n")
        );
    }

    #[test]
    fn white_space_and_unfinished_work_are_found() {
        let text = format!("a \nb // {}: c\n\n", concat!("TO", "DO"));
        let mut problems = Vec::new();
        whitespace(&File::new("a.wgsl", text), &mut problems);
        let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 0]);
    }
}
