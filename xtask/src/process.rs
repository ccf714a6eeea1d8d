//! Running other programs, so that a reader of the output sees what ran.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
}

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    let dir = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(dir)
}

/// The cargo that runs us, in the workspace.
pub fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root());
    command
}

/// A program in the workspace.
pub fn program(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(root());
    command
}

/// Prints the command line, runs it, and says whether it ended well.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(code(command)? == 0)
}

/// As [`succeeds`], with its exit code; 1 where a signal ended it.
pub fn code(command: &mut Command) -> Result<i32> {
    let line = shown(command);
    eprintln!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("'{line}' could not be started"))?;
    Ok(status.code().unwrap_or(1))
}

/// As [`succeeds`]; a bad end is an error.
pub fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command)? {
        bail!("'{}' failed", shown(command));
    }
    Ok(())
}

/// The command line, with the program's folder left out.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_stem()
        .unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
