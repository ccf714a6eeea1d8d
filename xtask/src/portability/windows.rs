//! Windows' binary in Wine: what of it runs at all, and kernels through wgpu's DirectX 12, which Wine brings to Vulkan.

use super::tree::{Part, quietly};
use super::{Call, Found, Implementation, Kind, Outcome, Row, dawn, line_of, rows, text};
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TARGET: &str = "x86_64-pc-windows-gnu";
/// A display of its own for the X server that Wine's Vulkan wants.
const DISPLAY: &str = ":97";
/// DirectX kernels by default: Wine has shader model 5.1 alone, whose compiler takes seconds for each.
const HANDFUL: &str =
    "^(rms_norm|silu_mul|gem[mv]_i8|flatten_quantize|add_positions|argmax|rope|kv_append_f16)$";

pub fn implementations() -> Vec<Implementation> {
    let one = |name: &str, run: fn(&Call<'_>) -> Result<Found>| Implementation {
        name: name.to_owned(),
        kind: Kind::Executed,
        fast: false,
        run: Box::new(run),
    };
    vec![one("windows-in-wine", binary), one("dx12-in-wine", directx)]
}

/// Builds `args` for Windows with the tree's linker, which stands in the path under its own name.
fn build(call: &Call<'_>, args: &[&str]) -> Result<PathBuf> {
    call.tree.ensure(&[Part::Vulkan, Part::Wine])?;
    quietly(&mut process::program("rustup", &["target", "add", TARGET]))?;
    let toolchain = line_of("rustc", &["--print", "sysroot"])?;
    let tools = call.folder.join("windows");
    fs::create_dir_all(&tools)?;
    for name in ["x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-dlltool"] {
        // The linker is told of files of the toolchain and of the temporary folder.
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -ec 'for d in /proc /sys /dev /tmp {toolchain} {} {}; do mkdir -p {root}$d; \
             mount --rbind $d {root}$d; done; exec chroot {root} /usr/bin/{name} \"$@\"' sh \"$@\"\n",
            process::root().display(),
            process::target_dir().display(),
            root = call.folder.join("tree").display(),
        );
        let file = tools.join(name);
        fs::write(&file, script)?;
        quietly(Command::new("chmod").arg("+x").arg(&file))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(tools).chain(std::env::split_paths(&path));
    let mut command = process::cargo(&["build", "--target", TARGET]);
    command.args(args).env("PATH", std::env::join_paths(path)?);
    process::run(&mut command)?;
    Ok(process::target_dir().join(TARGET).join("debug"))
}

/// A Windows program in Wine, with a screen of an X server and the tree's llvmpipe.
fn wine(call: &Call<'_>, program: &Path, args: &[&str]) -> Result<Command> {
    let script = format!(
        "Xvfb {DISPLAY} -screen 0 640x480x24 -nolisten tcp >/dev/null 2>&1 & server=$!
        \"$@\"; status=$?
        kill $server; exit $status"
    );
    let program = text(program)?;
    let mut words = vec!["-c", &script, "sh", "wine", &program];
    words.extend(args);
    let mut command = call.tree.command("sh", &words);
    command
        .env("DISPLAY", DISPLAY)
        .env("WINEPREFIX", call.folder.join("wine"))
        .env("WINEDEBUG", "-all")
        .env("WINEDLLOVERRIDES", "d3dcompiler_47=n")
        .env("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.json");
    Ok(command)
}

/// `devices`, and `generate` on the twins.
fn binary(call: &Call<'_>) -> Result<Found> {
    let program = build(call, &["--package", "plateau-cli"])?.join("plateau.exe");
    let expected = generated_here()?;
    let devices = wine(call, &program, &["devices"])?.output()?;
    if !devices.status.success() {
        bail!(
            "plateau devices: {}: {}",
            devices.status,
            String::from_utf8_lossy(&devices.stderr).trim()
        );
    }
    let generated = wine(call, &program, &generate("twin"))?.output()?;
    let rows = vec![
        row("plateau devices", Outcome::Equal, String::new()),
        judged("plateau generate on the twins", &generated, &expected),
    ];
    let about = lines(&devices.stdout);
    let about = about
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .collect::<Vec<_>>()
        .join(" ");
    Ok((format!("plateau.exe in Wine; devices: {about}"), rows))
}

/// A handful of kernels through DirectX 12: wgpu's code and naga's HLSL, executed; then a whole model.
fn directx(call: &Call<'_>) -> Result<Found> {
    let built = build(
        call,
        &["--package", "plateau-tests", "--example", "portability"],
    )?;
    let folder = built.join("examples");
    let package = dawn::package(call.folder)?;
    let dll = "d3dcompiler_47.dll";
    // Windows looks beside the program.
    for place in [&built, &folder] {
        fs::copy(package.join("dist/win32-x64").join(dll), place.join(dll))
            .with_context(|| format!("the package has no {dll}"))?;
    }
    // Wine has Vulkan too.
    let on_directx = |program: &Path, args: &[&str]| -> Result<Command> {
        let mut command = wine(call, program, args)?;
        command.env("WGPU_BACKEND", "dx12");
        Ok(command)
    };
    let kernel = call.kernel.unwrap_or(HANDFUL);
    let args = ["run", "--brief", "--kernel", kernel];
    let program = folder.join("portability.exe");
    let (about, mut found) = rows(&mut on_directx(&program, &args)?, |_, _| {})?;
    if call.kernel.is_none() {
        let program = build(call, &["--package", "plateau-cli"])?.join("plateau.exe");
        // Not on the twins, which would have the same answer.
        let generated = on_directx(&program, &generate("0"))?.output()?;
        found.push(judged("plateau generate", &generated, &generated_here()?));
    }
    Ok((about, found))
}

fn generate(device: &str) -> [&str; 9] {
    let prompt = "Once upon a time";
    [
        "generate", "--device", device, "--temp", "0", "-n", "16", "-q", prompt,
    ]
}

/// What `generate` says on the twins of this system.
fn generated_here() -> Result<String> {
    process::run(&mut process::cargo(&["build", "--package", "plateau-cli"]))?;
    let output = Command::new(process::target_dir().join("debug/plateau"))
        .args(generate("twin"))
        .output()
        .context("plateau could not be started")?;
    ensure!(output.status.success(), "plateau generate fails here");
    Ok(lines(&output.stdout))
}

fn judged(name: &str, output: &Output, expected: &str) -> Row {
    let said = lines(&output.stdout);
    if !output.status.success() {
        let why = lines(&output.stderr);
        return row(name, Outcome::Refused, why.trim().replace('\n', " "));
    }
    if said == expected {
        return row(name, Outcome::Equal, String::new());
    }
    let why = format!("{said:?} instead of {expected:?}");
    row(name, Outcome::Differs, why)
}

fn row(name: &str, outcome: Outcome, why: String) -> Row {
    Row {
        kernel: name.to_owned(),
        variant: String::new(),
        case: String::new(),
        outcome,
        why,
        figures: None,
        for_more_registers: false,
    }
}

fn lines(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}
