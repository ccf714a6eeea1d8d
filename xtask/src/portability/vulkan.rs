//! Vulkan drivers: those that compute on the CPU execute the kernels, those of GPUs compile them on a shim that stands in for the
//! kernel's driver.

use super::statistics::{Compiler, Figures};
use super::tree::{NEW_SHIMS, Part, quietly};
use super::{Call, Found, Implementation, Kind, rows, text};
use crate::{process, swiftshader};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFESTS: &str = "/usr/share/vulkan/icd.d";
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Messages of the validation layer that are its own mistakes; see tests/translate/main.rs.
const LAYER_MISTAKES: [&str; 1] = ["VUID-StandaloneSpirv-None-10684"];

/// A GPU that a compiler knows.
struct Chip {
    name: &'static str,
    compiler: Compiler,
    /// What names it to the shim.
    variable: (&'static str, &'static str),
    fast: bool,
}

/// The shims of this Mesa do not know it, its compiler does.
const ADA: &str = "nvk-ada";

const CHIPS: [Chip; 16] = [
    radv("radv-vega20", "vega20", false),
    radv("radv-navi10", "navi10", false),
    radv("radv-navi21", "navi21", true),
    radv("radv-navi31", "navi31", true),
    radv("radv-gfx1201", "gfx1201", true),
    anv("anv-skl", "skl"),
    anv("anv-tgl", "tgl"),
    anv("anv-dg2", "dg2"),
    anv("anv-bmg", "bmg"),
    nvk("nvk-turing", "162"),
    nvk("nvk-ampere", "172"),
    nvk(ADA, "192"),
    turnip("turnip-a660", "660"),
    turnip("turnip-a740", "740"),
    turnip("turnip-a750", "750"),
    Chip {
        name: "honeykrisp-m1",
        compiler: Compiler::Honeykrisp,
        variable: ("ASAHI_MESA_DEBUG", "shaderdb"),
        fast: true,
    },
];

const fn radv(name: &'static str, chip: &'static str, fast: bool) -> Chip {
    Chip {
        name,
        compiler: Compiler::Radv,
        variable: ("AMDGPU_GPU_ID", chip),
        fast,
    }
}

const fn anv(name: &'static str, chip: &'static str) -> Chip {
    Chip {
        name,
        compiler: Compiler::Anv,
        variable: ("INTEL_STUB_GPU_PLATFORM", chip),
        fast: false,
    }
}

const fn nvk(name: &'static str, chip: &'static str) -> Chip {
    Chip {
        name,
        compiler: Compiler::Nvk,
        variable: ("NOUVEAU_CHIPSET", chip),
        fast: false,
    }
}

const fn turnip(name: &'static str, chip: &'static str) -> Chip {
    Chip {
        name,
        compiler: Compiler::Turnip,
        variable: ("FD_GPU_ID", chip),
        fast: false,
    }
}

impl Compiler {
    /// Manifest, shim, and what makes the driver print its statistics.
    fn driver(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Radv => ("radeon", "amdgpu", "RADV_DEBUG=nocache,cs,asm,shaderstats"),
            Self::Anv => ("intel", "intel", "INTEL_DEBUG=cs"),
            Self::Nvk => ("nouveau", "nouveau", "NAK_DEBUG=print"),
            Self::Turnip => ("freedreno", "freedreno", "IR3_SHADER_DEBUG=cs"),
            Self::Honeykrisp => ("asahi", "asahi", "AGX_MESA_DEBUG=shaderdb"),
        }
    }
}

pub fn implementations() -> Vec<Implementation> {
    let executed = |name: &str, run: fn(&Call<'_>) -> Result<Found>| Implementation {
        name: name.to_owned(),
        kind: Kind::Executed,
        fast: false,
        run: Box::new(run),
    };
    let mut all = vec![
        executed("lavapipe-26", |call| {
            call.tree.ensure(&[Part::Vulkan])?;
            execute(call, true, Path::new(&format!("{MANIFESTS}/lvp_icd.json")))
        }),
        executed("lavapipe-26-matrices", matrices),
        executed("lavapipe", |call| {
            let found = std::fs::read_dir(MANIFESTS)
                .with_context(|| format!("reading {MANIFESTS}"))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.to_string_lossy().contains("/lvp_icd"));
            execute(call, false, &found.context("no llvmpipe is installed")?)
        }),
        executed("swiftshader", |call| {
            execute(call, false, &swiftshader::ensure_fetched()?)
        }),
    ];
    all.extend(CHIPS.iter().map(|chip| Implementation {
        name: chip.name.to_owned(),
        kind: Kind::Compiled,
        fast: chip.fast,
        run: Box::new(|call| compile(call, chip)),
    }));
    all.push(Implementation {
        name: "validation-layer".to_owned(),
        kind: Kind::Compiled,
        fast: false,
        run: Box::new(validate),
    });
    all
}

/// Every case, and whole models.
fn execute(call: &Call<'_>, in_tree: bool, manifest: &Path) -> Result<Found> {
    let run = |words: Vec<String>| {
        let mut command = if in_tree {
            call.in_tree(&words)
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).current_dir(process::root());
            command
        };
        rows(command.env("VK_DRIVER_FILES", manifest), |_, _| {})
    };
    let (about, mut found) = run(call.program("run")?)?;
    if call.kernel.is_none() {
        found.extend(run(call.program("models")?)?.1);
    }
    Ok((about, found))
}

/// Seconds of computing for a kernel on matrices: LLVM takes a minute for a variant.
const MATRICES_LIMIT: u32 = 600;

/// The kernels on matrices, whose size llvmpipe computes but does not list: a kernel at a time.
fn matrices(call: &Call<'_>) -> Result<Found> {
    call.tree.ensure(&[Part::Vulkan])?;
    let on_matrices = plateau_shaders::KERNELS
        .iter()
        .filter(|kernel| kernel.matrices().is_some());
    let wanted = match call.kernel {
        Some(kernel) => vec![kernel.to_owned()],
        None => on_matrices
            .map(|kernel| format!("^{}$", kernel.name))
            .collect(),
    };
    let masked = preloaded(call, "masked", include_str!("masked.c"))?;
    let mut found = (String::new(), Vec::new());
    for kernel in &wanted {
        let call = Call {
            kernel: Some(kernel),
            ..*call
        };
        let script = format!(
            "(ulimit -S -t {MATRICES_LIMIT}; exec \"$@\")
            status=$?
            # Of SIGXCPU.
            [ $status = 152 ] || exit $status
            echo \"$0\""
        );
        let stopped = serde_json::json!({
            "kernel": kernel.trim_matches(['^', '$']),
            "variant": "",
            "outcome": "refused",
            "why": format!("no end after {MATRICES_LIMIT} s"),
        });
        let mut words = vec![
            "sh".to_owned(),
            "-c".to_owned(),
            script,
            stopped.to_string(),
        ];
        words.extend(call.program("run")?);
        words.extend(["--matrices", "tested"].map(str::to_owned));
        let mut command = call.in_tree(&words);
        command
            .env("VK_DRIVER_FILES", format!("{MANIFESTS}/lvp_icd.json"))
            .env("LD_PRELOAD", &masked)
            // LLVM's passes would take most of the time.
            .env("GALLIVM_PERF", "nopt");
        let (about, rows) = rows(&mut command, |_, _| {})?;
        if !about.is_empty() {
            found.0 = about;
        }
        found.1.extend(rows);
    }
    Ok(found)
}

/// In the tree, with what the driver prints among the rows.
fn compile_in(call: &Call<'_>, variables: &[String]) -> Result<Command> {
    let mut words: Vec<String> = ["sh", "-c", "exec env \"$@\" 2>&1", "sh"]
        .map(str::to_owned)
        .into();
    words.extend_from_slice(variables);
    words.extend(
        call.program("compile")?
            .into_iter()
            .filter(|word| word != "--brief"),
    );
    words.extend(["--matrices", "listed"].map(str::to_owned));
    Ok(call.in_tree(&words))
}

fn compile(call: &Call<'_>, chip: &Chip) -> Result<Found> {
    let mut parts = vec![Part::Vulkan];
    if chip.compiler == Compiler::Anv {
        parts.push(Part::IntelShim);
    }
    call.tree.ensure(&parts)?;
    let (manifest, shim, statistics) = chip.compiler.driver();
    let shims = if chip.name == ADA {
        call.tree.ensure(&[Part::NewShims])?;
        NEW_SHIMS
    } else {
        LIBRARIES
    };
    let (name, value) = chip.variable;
    let variables = [
        format!("{name}={value}"),
        statistics.to_owned(),
        "MESA_SHADER_CACHE_DISABLE=1".to_owned(),
        format!("VK_DRIVER_FILES={MANIFESTS}/{manifest}_icd.json"),
        format!(
            "LD_PRELOAD={shims}/lib{shim}_noop_drm_shim.so:{}",
            text(&preloaded(call, "stderr", include_str!("stderr.c"))?)?
        ),
    ];
    rows(&mut compile_in(call, &variables)?, |line, figures| {
        chip.compiler.read(line, figures);
    })
}

/// A library for `LD_PRELOAD`, made by the C compiler that links Rust's programs here.
fn preloaded(call: &Call<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let source = call.folder.join(format!("{name}.c"));
    let library = call.folder.join(format!("{name}.so"));
    std::fs::write(&source, text)?;
    let mut command = Command::new("cc");
    command
        .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &source]);
    quietly(&mut command)?;
    Ok(library)
}

/// The rules of Vulkan, on llvmpipe.
fn validate(call: &Call<'_>) -> Result<Found> {
    call.tree.ensure(&[Part::Vulkan])?;
    let variables = [
        format!("VK_DRIVER_FILES={MANIFESTS}/lvp_icd.json"),
        "VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation".to_owned(),
    ];
    let mut messages = Vec::new();
    let mut command = compile_in(call, &variables)?;
    let (about, found) = rows(&mut command, |line, _: &mut Figures| {
        let known = LAYER_MISTAKES.iter().any(|id| line.contains(id));
        if line.contains("VUID-") && !known {
            messages.push(line.to_owned());
        }
    })?;
    messages.sort();
    messages.dedup();
    if !messages.is_empty() {
        anyhow::bail!("{}", messages.join("; "));
    }
    let found = found.into_iter().map(|mut row| {
        row.figures = None;
        row
    });
    Ok((format!("on {about}"), found.collect()))
}
