//! `cargo xtask golden`: remakes the golden files by their script. The diff is the review.

use crate::process;
use anyhow::{Context, Result};

pub fn run() -> Result<()> {
    process::run(&mut process::program("python3", &["tests/golden/make.py"]))
        .context("tests/golden/README.md says which Python packages the script needs")?;
    process::run(&mut process::program(
        "git",
        &["status", "--short", "--", "tests/golden"],
    ))?;
    process::run(&mut process::program(
        "git",
        &["--no-pager", "diff", "--stat", "--", "tests/golden"],
    ))
}
