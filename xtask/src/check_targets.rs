//! `cargo xtask check-targets`: the engine compiles where no test of ours runs.

use crate::process;
use anyhow::{Context, Result, bail};

/// Metal, the web, and Windows, where nothing is linked: that takes a linker for it, and `cargo xtask portability` brings one.
const TARGETS: [&str; 3] = [
    "aarch64-apple-darwin",
    "wasm32-unknown-unknown",
    "x86_64-pc-windows-gnu",
];

pub fn run() -> Result<()> {
    let sysroot = process::program("rustc", &["--print", "sysroot"])
        .output()
        .context("rustc could not be started")?;
    let sysroot =
        String::from_utf8(sysroot.stdout).context("the path of rustc's sysroot is not UTF-8")?;
    let mut failed = Vec::new();
    for target in TARGETS {
        let std = std::path::Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(target)
            .join("lib");
        if !std.is_dir() {
            process::run(&mut process::program("rustup", &["target", "add", target]))
                .with_context(|| {
                    format!(
                        "Rust's standard library for {target} is missing and could not be added"
                    )
                })?;
        }
        if !process::succeeds(&mut process::cargo(&[
            "check",
            "--package",
            "plateau",
            "--target",
            target,
        ]))? {
            failed.push(target);
        }
    }
    if !failed.is_empty() {
        bail!("the engine does not compile for {}", failed.join(", "));
    }
    Ok(())
}
