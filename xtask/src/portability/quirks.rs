//! What is known to be wrong elsewhere, and what has to be right everywhere else.

use super::statistics::Figures;
use super::{Implementation, Kind, Outcome, Report, Row};
use std::collections::BTreeMap;

/// Something that is wrong with a kernel on an implementation, and what is done about it. One that is seen no more is a problem: then it goes.
struct Quirk {
    /// The beginning of the name.
    implementation: &'static str,
    /// The version that shows it.
    version: &'static str,
    /// The beginning of the kernel's name.
    kernel: &'static str,
    /// Part of what is said to be wrong.
    symptom: &'static str,
    /// Why it may stay.
    instead: &'static str,
}

const QUIRKS: &[Quirk] = &[
    fxc("attention_", BARRIER),
    fxc("attention_", UNROLLED),
    fxc("rope_attention_", BARRIER),
    fxc("rope_attention_", UNROLLED),
    fxc("sample", BARRIER),
    fxc("gram_", UNROLLED),
    fxc("layer_norm_flat", UNROLLED),
    fxc("gemm_f", "no end after"),
    fxc("gemv_f", "no end after"),
    // Where the outputs are stored, worked out before the loop: of 71 to 79 values 13 are loaded again in it, for 64 multiply-adds. On
    // gfx1201 it is one value, or six.
    spills("radv-navi31", "gemm_i4_coop16"),
    spills("radv-navi31", "gemm_i8_coop16"),
    spills("radv-gfx1201", "gemm_i4_coop16"),
    spills("radv-gfx1201", "gemm_i8_coop16"),
];

/// FXC takes what all invocations load from one place of workgroup memory for different values, and wants no barrier in a loop that they
/// bound; also other loops than those that it can unroll. The kernels stay: DirectX 12 runs them with DXC.
const fn fxc(kernel: &'static str, symptom: &'static str) -> Quirk {
    Quirk {
        implementation: "fxc-5.1",
        version: "d3dcompiler_47 of npm webgpu 0.6.2",
        kernel,
        symptom,
        instead: "DirectX 12 has to have dxcompiler.dll beside the program",
    }
}

const fn spills(implementation: &'static str, kernel: &'static str) -> Quirk {
    Quirk {
        implementation,
        version: "Mesa 26.1.6",
        kernel,
        symptom: "registers are spilled",
        instead: "the kernel stays as it is: it was tuned on a GPU with more registers",
    }
}

const BARRIER: &str = "thread sync operation";
const UNROLLED: &str = "unable to unroll loop";

/// Compilers that run for every chip with an instruction for a dot product of four bytes.
const HAVE_DOT: [&str; 11] = [
    "radv-vega20",
    "radv-navi21",
    "radv-navi31",
    "radv-gfx1201",
    "anv-tgl",
    "anv-dg2",
    "anv-bmg",
    "nvk-turing",
    "nvk-ampere",
    "nvk-ada",
    "dxc-6.4",
];

/// The kernels that take the time of a model.
const HOT: [&str; 5] = ["gemm", "gemv", "attention", "gate_up", "norm_gemv"];

/// Reasons for which a kernel may be refused: the adapter has not what the kernel says that it needs, and another kernel is chosen.
const LACKS: [&str; 7] = [
    "the adapter has no ",
    "the adapter has subgroups of ",
    "is not listed",
    "bytes of workgroup memory, ",
    "shader model 5.1 ",
    "naga's matrices are no part of WGSL",
    "no such matrices",
];

/// What is wrong with `reports`, a line each; `whole`: quirks that were not seen count.
pub fn problems(
    all: &[Implementation],
    reports: &BTreeMap<String, Report>,
    whole: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    for one in all {
        let Some(report) = reports.get(&one.name) else {
            continue;
        };
        if let (true, Some(why)) = (report.broke, &report.failure) {
            problems.push(format!("{}: {why}", one.name));
        }
        let quirks = QUIRKS
            .iter()
            .filter(|quirk| one.name.starts_with(quirk.implementation));
        for row in &report.rows {
            let known = quirks.clone().any(|quirk| is_of(one, row, quirk));
            if let (Some(what), false) = (wrong(one, row), known) {
                problems.push(format!(
                    "{}: {} [{}] {}: {what}",
                    one.name, row.kernel, row.variant, row.case
                ));
            }
        }
        for quirk in quirks.filter(|_| whole && report.failure.is_none()) {
            if !report.rows.iter().any(|row| is_of(one, row, quirk)) {
                problems.push(format!(
                    "{}: '{}' of {} is not seen any more: its quirk and what is done instead ({}) can go",
                    one.name, quirk.symptom, quirk.version, quirk.instead
                ));
            }
        }
    }
    problems
}

fn is_of(one: &Implementation, row: &Row, quirk: &Quirk) -> bool {
    row.kernel.starts_with(quirk.kernel)
        && wrong(one, row).is_some_and(|what| what.contains(quirk.symptom))
}

fn wrong(one: &Implementation, row: &Row) -> Option<String> {
    match row.outcome {
        Outcome::Differs => return Some(row.why.clone()),
        Outcome::Refused if LACKS.iter().any(|lack| row.why.contains(lack)) => return None,
        Outcome::Refused => return Some(row.why.clone()),
        Outcome::Equal => return None,
        Outcome::Compiled | Outcome::Accepted => {}
    }
    let figures = row.figures?;
    let is_hot = HOT.iter().any(|hot| row.kernel.contains(hot));
    let is_chosen = one.kind == Kind::Compiled && !row.for_more_registers;
    if is_hot && is_chosen && figures.spills != Some(0) {
        return Some(match figures.spills {
            Some(spills) => format!("{spills} registers are spilled"),
            None => "the compiler printed no statistics".to_owned(),
        });
    }
    instruction_missing(one, row, figures)
}

fn instruction_missing(one: &Implementation, row: &Row, figures: Figures) -> Option<String> {
    let kernel = plateau_shaders::KERNELS
        .iter()
        .find(|kernel| kernel.name == row.kernel)?;
    let has_dot = HAVE_DOT.contains(&one.name.as_str());
    let on_matrices = kernel.matrices().is_some();
    if has_dot && !on_matrices && kernel.wgsl().contains("dot4I8Packed(") && !figures.dot {
        return Some("no instruction for a dot product of four bytes".to_owned());
    }
    (on_matrices && one.kind == Kind::Compiled && !figures.matrix)
        .then(|| "no instruction on matrices".to_owned())
}
