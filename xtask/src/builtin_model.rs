//! `cargo xtask builtin-model FOLDER`: remakes the model that is embedded in the binary from a float model.

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// How the built-in model is quantized: flags of `plateau quantize`.
const RECIPE: &[&str] = &["--recipe", "rtn-w4a8"];

/// What the binary may carry.
const MAX_BYTES: u64 = 12_000_000;

const BUILTIN: &str = "engine/builtin";
/// Beside it, so that a rename puts it in place.
const FRESH: &str = "engine/builtin-fresh";
const MODEL_CARD: &str = "README.md";

pub fn run(folder: &str) -> Result<()> {
    let folder = fs::canonicalize(folder).with_context(|| format!("the model folder {folder}"))?;
    let folder = folder
        .to_str()
        .context("the model folder's path is not UTF-8")?;
    let builtin = process::root().join(BUILTIN);
    let fresh = process::root().join(FRESH);
    remove(&fresh)?;

    // The development profile is optimized too, and the tests have built it.
    let mut args = vec![
        "run",
        "--package",
        "plateau-cli",
        "--",
        "quantize",
        folder,
        FRESH,
    ];
    args.extend(RECIPE);
    process::run(&mut process::cargo(&args))?;

    let bytes = folder_bytes(&fresh)?;
    if bytes > MAX_BYTES {
        bail!(
            "{FRESH} has {bytes} bytes, the built-in model may have {MAX_BYTES}; {BUILTIN} is as it was"
        );
    }
    let card = builtin.join(MODEL_CARD);
    if card.is_file() {
        fs::copy(&card, fresh.join(MODEL_CARD))
            .with_context(|| format!("copying {}", card.display()))?;
    }
    remove(&builtin)?;
    fs::rename(&fresh, &builtin).with_context(|| format!("moving {FRESH} to {BUILTIN}"))?;

    eprintln!(
        "{BUILTIN} has {bytes} bytes ({} of {MAX_BYTES} left)",
        MAX_BYTES - bytes
    );
    eprintln!(
        "Its model card {BUILTIN}/{MODEL_CARD} was kept: bring source, licence and recipe up to date"
    );
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// Size of the files of a folder that has no folders in it.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        ensure!(
            entry.file_type()?.is_file(),
            "{} is not a file",
            entry.path().display()
        );
        bytes += entry.metadata()?.len();
    }
    Ok(bytes)
}
