//! What `cargo xtask portability` runs on an implementation: the table of cases, or its pipelines alone, as JSON lines.
//!
//! ```text
//! portability run                every case on the first adapter, against the twins
//! portability compile            every pipeline; nothing runs
//! portability models             tokens of whole models, against references and the twins
//! portability translate FOLDER   what naga makes of each pipeline for each target, in files
//! portability elsewhere COMMAND… every case in a program that reads cases and writes outputs
//!   --kernel REGEX               kernels whose name matches
//!   --brief                      one case for each pipeline
//!   --matrices listed, tested    see `MatrixProof`
//! ```

mod elsewhere;
mod models;
#[expect(dead_code, reason = "the tests of translation use the rest")]
#[path = "../translate/pipelines.rs"]
mod pipelines;
#[expect(dead_code, reason = "the tests of translation use the rest")]
#[path = "../translate/targets.rs"]
mod targets;

use plateau::exec::{DeviceError, Executor, GpuOptions, KernelChoice, MatrixProof, open_all};
use plateau::plan::{Dispatch, Grid, Plan};
use plateau_shaders::{Constant, Kernel, Matrices};
use plateau_tests::{Case, cases, run};
use regex::Regex;
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use targets::{Target, Text};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mode, mut rest) = args.split_first().ok_or("which mode?")?;
    let (mut kernel, mut proof, mut brief) = (Regex::new("")?, MatrixProof::Whole, false);
    loop {
        rest = match rest {
            [flag, others @ ..] if flag == "--brief" => {
                brief = true;
                others
            }
            [flag, value, others @ ..] if flag == "--kernel" => {
                kernel = Regex::new(value)?;
                others
            }
            [flag, value, others @ ..] if flag == "--matrices" => {
                proof = match value.as_str() {
                    "listed" => MatrixProof::Listed,
                    "tested" => MatrixProof::Tested,
                    _ => return Err("--matrices: listed or tested".into()),
                };
                others
            }
            _ => break,
        };
    }
    let mut cases = cases::all();
    cases.retain(|case| kernel.is_match(case.kernel.name));
    if brief || mode == "compile" {
        cases = variants(cases);
    }
    pollster::block_on(async {
        match (mode.as_str(), rest) {
            ("run", []) => on_adapter(&cases, proof, Work::Run).await,
            ("compile", []) => on_adapter(&cases, proof, Work::Compile).await,
            ("models", []) => models::run().await,
            ("translate", [folder]) => translate(&kernel, Path::new(folder)),
            ("elsewhere", [program, args @ ..]) => elsewhere::run(&cases, program, args).await,
            _ => Err(format!("cannot do '{}'", args.join(" ")).into()),
        }
    })
}

/// `GROUP_SIZE=32`
fn variant(constants: &[Constant]) -> String {
    let words = constants
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    words.collect::<Vec<_>>().join(" ")
}

/// A case of each kernel and set of constants.
fn variants(cases: Vec<Case>) -> Vec<Case> {
    let mut variants = BTreeMap::new();
    for case in cases {
        let key = (case.kernel.name, case.constants.clone());
        variants.entry(key).or_insert(case);
    }
    variants.into_values().collect()
}

/// The row of a case: `outcome` is `equal`, `differs`, `compiled` or `refused`.
fn print(case: &Case, outcome: &str, why: &str) {
    println!(
        "{}",
        json!({
            "kernel": case.kernel.name,
            "variant": variant(&case.constants),
            "case": case.name,
            "outcome": outcome,
            "why": why,
        })
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Run,
    Compile,
}

/// The kernels that need the same of a device.
#[derive(Clone, Copy)]
enum Group {
    /// Under WebGPU's default limits, without any feature.
    Portable,
    Subgroups,
    Matrices(Matrices),
}

impl Group {
    const ALL: [Self; 5] = [
        Self::Portable,
        Self::Subgroups,
        Self::Matrices(Matrices::F16),
        Self::Matrices(Matrices::F16By8),
        Self::Matrices(Matrices::Int8),
    ];

    fn has(self, kernel: &Kernel) -> bool {
        match self {
            Self::Portable => !kernel.subgroups,
            Self::Subgroups => kernel.subgroups && kernel.matrices().is_none(),
            Self::Matrices(matrices) => kernel.matrices() == Some(matrices),
        }
    }

    fn options(self, matrices: MatrixProof) -> GpuOptions {
        let kernels = match self {
            Self::Portable => return GpuOptions::PORTABLE,
            Self::Subgroups => KernelChoice::Dot4,
            Self::Matrices(Matrices::F16 | Matrices::F16By8) => KernelChoice::Coop,
            Self::Matrices(Matrices::Int8) => KernelChoice::CoopInt8,
        };
        GpuOptions {
            kernels,
            matrices,
            ..GpuOptions::default()
        }
    }
}

async fn on_adapter(cases: &[Case], proof: MatrixProof, work: Work) -> Result<()> {
    let mut said = false;
    for group in Group::ALL {
        let mut cases = cases
            .iter()
            .filter(|case| group.has(case.kernel))
            .peekable();
        // Opening a device for kernels on matrices tests them.
        if cases.peek().is_none() {
            continue;
        }
        let opened = open_all(group.options(proof)).await.into_iter().next();
        let mut device = match opened {
            None => return Err("no adapter".into()),
            Some(Ok(gpu)) => Executor::Gpu(Box::new(gpu)),
            Some(Err(DeviceError::Kernels { reason, .. })) => {
                cases.for_each(|case| print(case, "refused", &reason));
                continue;
            }
            Some(Err(error)) => return Err(error.into()),
        };
        if let (Some(adapter), false) = (device.adapter(), said) {
            said = true;
            println!(
                "{}",
                json!({"adapter": adapter.name, "driver": adapter.driver, "backend": adapter.backend})
            );
        }
        for case in cases {
            if let Some(why) = run::not_supported(&device, case) {
                print(case, "refused", &why);
                continue;
            }
            match work {
                Work::Run => match run::check(&mut device, case).await {
                    Ok(()) => print(case, "equal", ""),
                    Err(why) => print(case, "differs", &why),
                },
                Work::Compile => {
                    // What a driver writes between this line and the next is of this pipeline.
                    println!(
                        "{}",
                        json!({
                            "compiling": case.kernel.name,
                            "variant": variant(&case.constants),
                            "for_more_registers": run::is_for_more_registers(&device, case),
                        })
                    );
                    match compile(&mut device, case).await {
                        Ok(()) => print(case, "compiled", ""),
                        Err(error) => print(case, "refused", &error.to_string()),
                    }
                }
            }
        }
    }
    Ok(())
}

async fn compile(device: &mut Executor, case: &Case) -> std::result::Result<(), DeviceError> {
    let mut plan = Plan::default();
    let bindings = case.buffers.iter();
    let bindings = bindings.map(|words| plan.scratch("binding", words.len() as u64));
    let dispatch = Dispatch {
        label: case.name.clone(),
        kernel: case.kernel,
        params: case.params.clone(),
        constants: case.constants.clone(),
        bindings: bindings.collect(),
        grid: Grid::Fixed(case.grid),
    };
    plan.dispatches.push(dispatch);
    let prepared = device.prepare(plan).await?;
    device.release(prepared);
    Ok(())
}

/// A file for each pipeline and target, and a line that names it: `target` is the name of a [`Target`].
fn translate(wanted: &Regex, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let all = pipelines::pipelines_of(|_| true);
    let all = all
        .iter()
        .filter(|pipeline| wanted.is_match(pipeline.kernel.name));
    for (number, pipeline) in all.enumerate() {
        let kernel = pipeline.kernel;
        let print = |target: &str, file: &str, entry: &str, why: &str| {
            println!(
                "{}",
                json!({
                    "kernel": kernel.name,
                    "variant": variant(&pipeline.constants),
                    "target": target,
                    "file": file,
                    "entry": entry,
                    "why": why,
                })
            );
        };
        let name = |end: &str| format!("{number}-{}.{end}", kernel.name);
        if let Some(matrices) = kernel.matrices() {
            let words = match matrices {
                Matrices::Int8 => plateau::exec::int8_module(kernel, &pipeline.constants),
                Matrices::F16 | Matrices::F16By8 => {
                    targets::with_matrices(&pipeline.module, &pipeline.info, kernel.name)
                }
            };
            let file = name("spv");
            std::fs::write(folder.join(&file), bytemuck::cast_slice::<u32, u8>(&words?))?;
            print("SpirvDotProduct", &file, kernel.name, "");
        }
        // Vulkan has matrices, and Metal those of 8 by 8.
        let targets = match kernel.matrices() {
            None => &Target::ALL[..],
            Some(Matrices::F16By8) => &[Target::Msl30],
            Some(_) => &[],
        };
        for &target in targets {
            let label = format!("{target:?}");
            // wgpu offers no subgroups there.
            if target == Target::Hlsl51 && kernel.subgroups {
                print(&label, "", "", "shader model 5.1 has no subgroups");
                continue;
            }
            let translated =
                targets::translate(&pipeline.module, &pipeline.info, kernel.name, target);
            match translated {
                Err(why) => print(&label, "", "", &why),
                Ok(text) => {
                    let file = name(&label);
                    let (bytes, entry) = match text {
                        Text::Words(words) => (
                            bytemuck::cast_slice(&words).to_vec(),
                            kernel.name.to_owned(),
                        ),
                        Text::Source(text) => {
                            let entry = hlsl_entry(&text).unwrap_or(kernel.name).to_owned();
                            (text.into_bytes(), entry)
                        }
                    };
                    std::fs::write(folder.join(&file), bytes)?;
                    print(&label, &file, &entry, "");
                }
            }
        }
    }
    Ok(())
}

/// naga gives another name to an entry point whose own ends in a digit.
fn hlsl_entry(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("[numthreads(")?;
    let (_, after) = after.split_once("void ")?;
    after.split('(').next()
}
