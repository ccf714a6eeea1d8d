//! `cargo xtask test`: the one gate. A developer and CI run the same.

use crate::{driver, process, tidy};
use anyhow::{Result, bail};
use std::env::consts::EXE_EXTENSION;
use std::process::{Command, ExitCode};

/// Installs what is missing without asking.
const YES: &str = "--yes";
/// Tests on SwiftShader too.
const SWIFTSHADER: &str = "--swiftshader";
/// Compares with CUDA instead of everything else.
pub const CUDA: &str = "--cuda";
/// What is not for `cargo test`. CI=true implies them all.
const OWN_FLAGS: [&str; 2] = [YES, SWIFTSHADER];

pub fn run(args: &[String]) -> Result<()> {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let has = |flag: &str| ci || args.iter().any(|arg| arg == flag);
    let extra: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|arg| !OWN_FLAGS.contains(arg))
        .collect();

    step("tools");
    ensure_components()?;

    step("Vulkan driver");
    driver::ensure_installed(has(YES))?;
    let drivers = driver::with_swiftshader(has(SWIFTSHADER));

    // Every step runs, so that one look at the end of the output says all that is wrong.
    let mut failed = Vec::new();
    let mut record = |name: &'static str, passed: bool| {
        if !passed {
            failed.push(name);
        }
    };

    step("format");
    record(
        "format",
        process::succeeds(&mut process::cargo(&["fmt", "--all", "--check"]))?,
    );

    step("tidy");
    let tidy = tidy::run();
    if let Err(error) = &tidy {
        eprintln!("{error:#}");
    }
    record("tidy", tidy.is_ok());

    step("clippy");
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    record("clippy", process::succeeds(&mut process::cargo(&clippy))?);

    // The tests of the command line run the binary as a user does.
    step("binary");
    record(
        "binary",
        process::succeeds(&mut process::cargo(&["build", "--package", "plateau-cli"]))?,
    );

    step("tests");
    let mut tests = process::cargo(&test_args(&extra));
    tests.envs(drivers.map(|drivers| ("VK_DRIVER_FILES", drivers)));
    record("tests", process::succeeds(&mut tests)?);

    step("CUDA parity");
    eprintln!("skipped, not run: {}", why_no_cuda());

    step("result");
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    eprintln!("everything passed; skipped: CUDA parity");
    Ok(())
}

/// `cargo xtask test --cuda`: the kernels and whole models against CUDA, on a machine with an NVIDIA GPU. Ends with the code of the
/// command that does it, which says what is missing where something is.
pub fn against_cuda(args: &[String]) -> Result<ExitCode> {
    let mut run = vec!["run", "--package", "plateau-cli", "--"];
    run.extend(["bench-ops", "test", "--against", "cuda"]);
    run.extend(args.iter().map(String::as_str).filter(|arg| *arg != CUDA));
    let code = process::code(&mut process::cargo(&run))?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// One line.
fn why_no_cuda() -> String {
    let binary = process::target_dir().join("debug").join("plateau");
    let support = Command::new(binary.with_extension(EXE_EXTENSION))
        .args(["bench-ops", "support", "--against", "cuda", "--quiet"])
        .output();
    match support {
        Ok(output) if output.status.success() => {
            format!("it is asked for with `cargo xtask test {CUDA}`")
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().next().unwrap_or("it is not known why");
            line.trim_start_matches("plateau: error: ").to_owned()
        }
        Err(error) => format!("the binary could not be asked: {error}"),
    }
}

/// A minimal toolchain comes without the formatter and the linter.
fn ensure_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let found = process::cargo(&[subcommand, "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if found {
            eprintln!("found: {component}");
        } else {
            process::run(&mut process::program(
                "rustup",
                &["component", "add", component],
            ))?;
        }
    }
    Ok(())
}

/// `cargo test` over the workspace, or over the packages that the extra arguments name.
fn test_args<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let own = extra.iter().take_while(|&&arg| arg != "--");
    let names_packages = own
        .clone()
        .any(|arg| *arg == "-p" || arg.starts_with("--package"));
    let mut args = vec!["test", "--no-fail-fast"];
    if !names_packages {
        args.push("--workspace");
    }
    args.extend(extra);
    args
}

fn step(name: &str) {
    eprintln!("\n== {name}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_flags_are_in_the_help() {
        for flag in OWN_FLAGS.into_iter().chain([CUDA]) {
            assert!(crate::HELP.contains(flag), "{flag}");
        }
    }

    #[test]
    fn the_whole_workspace_is_tested_unless_a_package_is_named() {
        assert_eq!(test_args(&[]), ["test", "--no-fail-fast", "--workspace"]);
        assert_eq!(
            test_args(&["-p", "xtask"]),
            ["test", "--no-fail-fast", "-p", "xtask"]
        );
        assert_eq!(
            test_args(&["--", "-p"]),
            ["test", "--no-fail-fast", "--workspace", "--", "-p"]
        );
    }
}
