//! Plateau's development commands: `cargo xtask COMMAND`. One file for each; none of them links the engine.

mod builtin_model;
mod check_targets;
mod driver;
mod golden;
mod portability;
mod process;
mod swiftshader;
mod test;
mod tidy;
mod wgsl;

use std::process::ExitCode;

const HELP: &str = "\
Plateau's development commands

usage: cargo xtask COMMAND

  test [--yes] [--swiftshader] [ARGS…]
                          all set-up that tests need, then every check: format, clippy with warnings denied,
                          tidy, the binary, every test. On Linux without a Vulkan driver it installs a software
                          one through the system's package manager, and asks first unless --yes or CI=true.
                          Where there is no GPU, --swiftshader or CI=true makes tests run on SwiftShader too, a
                          second software driver, fetched by apt into the target folder.
                          ARGS go to `cargo test`
  test --cuda [ARGS…]     on a machine with an NVIDIA GPU: every kernel and whole models against CUDA. ARGS go to
                          `plateau bench-ops test`, whose exit code it has: 5 where the driver or NVRTC is missing
  tidy                    the rules of layout and style that a program can check
  wgsl NAME               print the joined WGSL text of a kernel
  builtin-model FOLDER    remake engine/builtin by quantizing the float model in FOLDER
  golden                  remake tests/golden (needs python3 with torch and transformers) and show what changed
  check-targets           check that the engine compiles for macOS, the web and Windows
  portability [--only NAME] [--kernel REGEX] [--fast] [--json]
                          every kernel on drivers and compilers of many makers, without their hardware. What it needs is
                          fetched into the target folder: a Debian 13 (by root, with debootstrap) and npm's Dawn; --clean
                          removes it. NAME is part of an implementation's; --fast is a choice for every commit
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args.as_slice()),
    };
    let result = match (command, rest) {
        ("test", args) if args.iter().any(|arg| arg == test::CUDA) => {
            match test::against_cuda(args) {
                Ok(code) => return code,
                Err(error) => Err(error),
            }
        }
        ("test", args) => test::run(args),
        ("tidy", []) => tidy::run(),
        ("wgsl", [name]) => wgsl::run(name),
        ("builtin-model", [folder]) => builtin_model::run(folder),
        ("golden", []) => golden::run(),
        ("check-targets", []) => check_targets::run(),
        ("portability", args) => portability::run(args),
        ("help" | "-h" | "--help", _) => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("cannot do '{}'\n\n{HELP}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
