//! Who takes what naga makes of the kernels: DirectX's compilers in Wine, spirv-val, and a lint for Metal's language.

use super::statistics::Figures;
use super::tree::{Part, quietly};
use super::{Call, Found, Implementation, Kind, Outcome, Row, dawn, text};
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A compiler that takes files.
struct Translator {
    name: &'static str,
    /// Of tests/translate/targets.rs.
    targets: &'static [&'static str],
    fast: bool,
    /// One pipeline of each kernel, where a file takes seconds.
    one_variant: bool,
    /// Answers a line for each line, which is a file and its entry point.
    command: fn(&Call<'_>) -> Result<(String, Command)>,
}

const TRANSLATORS: [Translator; 6] = [
    Translator {
        name: "spirv-val",
        targets: &["Spirv", "SpirvDotProduct"],
        fast: true,
        one_variant: false,
        command: spirv_val,
    },
    dxc("dxc-6.0", &["Hlsl60"], |call| directx(call, DXC, "cs_6_0")),
    dxc("dxc-6.2", &["Hlsl62"], |call| directx(call, DXC, "cs_6_2")),
    dxc("dxc-6.4", &["Hlsl64"], |call| directx(call, DXC, "cs_6_4")),
    Translator {
        name: "fxc-5.1",
        targets: &["Hlsl51"],
        fast: false,
        one_variant: true,
        command: |call| directx(call, "d3dcompiler_47.dll", "cs_5_1"),
    },
    Translator {
        name: "msl-lint",
        targets: &["Msl30"],
        fast: false,
        one_variant: false,
        command: clang,
    },
];

const DXC: &str = "dxcompiler.dll";
/// Seconds of computing for a file, after which FXC is stopped: what it takes, it took in fewer.
const FXC_LIMIT: u32 = 60;

const fn dxc(
    name: &'static str,
    targets: &'static [&'static str],
    command: fn(&Call<'_>) -> Result<(String, Command)>,
) -> Translator {
    Translator {
        name,
        targets,
        fast: false,
        one_variant: false,
        command,
    }
}

pub fn implementations() -> Vec<Implementation> {
    let all = TRANSLATORS.iter().map(|translator| Implementation {
        name: translator.name.to_owned(),
        kind: Kind::Translated,
        fast: translator.fast,
        run: Box::new(|call| take(call, translator)),
    });
    all.collect()
}

/// A line of `portability translate`.
#[derive(Deserialize)]
struct Translated {
    kernel: String,
    variant: String,
    target: String,
    /// Empty where naga refused it, for the reason in `why`.
    file: String,
    entry: String,
    why: String,
}

fn take(call: &Call<'_>, translator: &Translator) -> Result<Found> {
    let folder = call.folder.join("translated");
    let mut words = call.program("translate")?;
    words.retain(|word| word != "--brief");
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg(&folder)
        .current_dir(process::root())
        .output()
        .context("the program could not be started")?;
    ensure!(
        output.status.success(),
        "translating: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let lines = String::from_utf8(output.stdout)?;
    let translated: Result<Vec<Translated>, _> = lines.lines().map(serde_json::from_str).collect();
    let mut seen = BTreeSet::new();
    let mut translated = translated?;
    translated.retain(|one| {
        translator.targets.contains(&one.target.as_str())
            && (!translator.one_variant || seen.insert(one.kernel.clone()))
    });
    // Each has a part of the files.
    let processes = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (mut about, mut commands) = (String::new(), Vec::new());
    for _ in 0..processes {
        let (version, command) = (translator.command)(call)?;
        about = version;
        commands.push(command);
    }
    let mut asked = Vec::new();
    for one in translated.iter().filter(|one| !one.file.is_empty()) {
        let file = text(&folder.join(&one.file))?;
        asked.push(format!("{file} {} {}\n", one.entry, one.target));
    }
    let mut answers = ask_all(commands, &asked)?.into_iter();
    let mut rows = Vec::new();
    for one in translated {
        let answer = if one.file.is_empty() {
            one.why
        } else {
            answers.next().context("the compiler gave up")?
        };
        let outcome = match answer.as_str() {
            "ok" | "ok dot" => Outcome::Accepted,
            _ => Outcome::Refused,
        };
        rows.push(Row {
            kernel: one.kernel,
            variant: one.variant,
            case: one.target,
            outcome,
            for_more_registers: false,
            figures: (outcome == Outcome::Accepted).then(|| Figures {
                dot: answer == "ok dot",
                ..Figures::default()
            }),
            why: match outcome {
                Outcome::Accepted => String::new(),
                _ => answer,
            },
        });
    }
    Ok((about, rows))
}

/// What programs answer that each get a part of the lines, an answer for each line.
fn ask_all(commands: Vec<Command>, asked: &[String]) -> Result<Vec<String>> {
    let processes = commands.len();
    let parts: Result<Vec<Vec<String>>> = std::thread::scope(|scope| {
        let started: Vec<_> = commands
            .into_iter()
            .enumerate()
            .map(|(first, mut command)| {
                let lines = asked.iter().skip(first).step_by(processes);
                let lines = lines.map(String::as_str).collect();
                scope.spawn(move || ask(&mut command, lines))
            })
            .collect();
        let ended = started.into_iter().map(|thread| {
            let panicked = std::panic::resume_unwind;
            thread.join().unwrap_or_else(|panic| panicked(panic))
        });
        ended.collect()
    });
    let mut parts: Vec<_> = parts?.into_iter().map(Vec::into_iter).collect();
    let answers = (0..asked.len()).filter_map(|line| parts[line % processes].next());
    Ok(answers.collect())
}

/// What a program answers, a line for each line of `asked`.
fn ask(command: &mut Command, asked: String) -> Result<Vec<String>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the compiler could not be started")?;
    let mut to = child.stdin.take().context("no pipe to the compiler")?;
    let count = asked.lines().count();
    // Beside the answers: a full pipe would stop both. A compiler that ends early is seen by its answers.
    let writer = std::thread::spawn(move || to.write_all(asked.as_bytes()));
    let output = child.wait_with_output()?;
    drop(writer.join());
    let answers = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<String> = answers.lines().map(|line| line.trim().to_owned()).collect();
    if answers.len() != count {
        bail!(
            "{} answers to {count} files: {}",
            answers.len(),
            answers.last().map_or("", String::as_str)
        );
    }
    Ok(answers)
}

/// A program of the tree for each file, in a loop of its shell.
fn for_each_file(call: &Call<'_>, check: &str) -> Command {
    let script = format!(
        "while read -r file entry target; do
            if said=$({check} 2>&1); then echo ok; else echo \"error $said\" | tr '\\n' ' '; echo; fi
        done"
    );
    call.tree.command("sh", &["-c", &script])
}

fn spirv_val(call: &Call<'_>) -> Result<(String, Command)> {
    call.tree.ensure(&[Part::Vulkan])?;
    let version = call.tree.command("spirv-val", &["--version"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    let about = version.lines().next().unwrap_or_default().to_owned();
    let check = "case $target in Spirv) vulkan=vulkan1.1;; *) vulkan=vulkan1.3;; esac
        spirv-val --target-env $vulkan \"$file\"";
    Ok((about, for_each_file(call, check)))
}

/// Metal's text as C++, with declarations of what it uses.
fn clang(call: &Call<'_>) -> Result<(String, Command)> {
    call.tree.ensure(&[Part::Clang])?;
    let shim = call.folder.join("metal");
    fs::create_dir_all(shim.join("simd"))?;
    fs::write(shim.join("metal_stdlib"), include_str!("metal_stdlib"))?;
    fs::write(shim.join("simd/simd.h"), "")?;
    let version = call.tree.command("clang++", &["--version"]).output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    let about = format!(
        "{}, declarations of our own",
        version.lines().next().unwrap_or_default()
    );
    let shim = text(&shim)?;
    // Swizzles are functions in the declarations.
    let check = format!(
        "sed -E 's/\\.([xyzw]{{2,4}})([^A-Za-z0-9_(])/.\\1()\\2/g' \"$file\" | clang++ -x c++ -std=c++20 -fsyntax-only \
        -Wno-everything -fno-caret-diagnostics -I {shim} -include metal_stdlib -"
    );
    Ok((about, for_each_file(call, &check)))
}

/// A compiler of DirectX, with the flags of wgpu, behind a program of ours.
fn directx(call: &Call<'_>, dll: &str, profile: &str) -> Result<(String, Command)> {
    call.tree.ensure(&[Part::Wine])?;
    let package = dawn::package(call.folder)?;
    let place: PathBuf = call.folder.join("directx");
    fs::create_dir_all(&place)?;
    fs::copy(package.join("dist/win32-x64").join(dll), place.join(dll))
        .with_context(|| format!("the package has no {dll}"))?;
    let (source, program) = (place.join("dxc.c"), place.join("dxc.exe"));
    fs::write(&source, include_str!("dxc.c"))?;
    quietly(&mut call.tree.command(
        "x86_64-w64-mingw32-gcc",
        &["-O1", "-Wall", "-o", &text(&program)?, &text(&source)?],
    ))?;
    let program = text(&program)?;
    let mut command = if dll == DXC {
        let flags = ["-HV", "2018", "-no-warnings", "-Ges"];
        let args = [&[program.as_str(), dll, profile], &flags[..]].concat();
        call.tree.command("wine", &args)
    } else {
        let script = format!(
            "while read -r line; do
                said=$(ulimit -t {FXC_LIMIT}; echo \"$line\" | wine \"$@\") || said=\"error no end after {FXC_LIMIT} s\"
                echo \"$said\"
            done"
        );
        let args = ["-c", &script, "sh", &program, dll, profile];
        call.tree.command("sh", &args)
    };
    command
        .env("WINEPREFIX", call.folder.join("wine"))
        .env("WINEDEBUG", "-all")
        .env("WINEDLLOVERRIDES", "d3dcompiler_47=n");
    let package = fs::read_to_string(package.join("package.json"))?;
    let package: serde_json::Value = serde_json::from_str(&package)?;
    let about = format!(
        "{dll} of npm webgpu {}, in Wine",
        package["version"].as_str().unwrap_or("?")
    );
    Ok((about, command))
}
