//! Every kernel, without a device: is it core WebGPU, does its Rust side describe it, and does it translate to what Vulkan,
//! DirectX 12 and Metal take? Nothing here needs to be told of a new kernel.

mod pipelines;
mod probe;
mod reflect;
mod targets;

use pipelines::{pipeline, pipelines, pipelines_of, validated};
use plateau_shaders::attention::rope_attention::WIDE_TEAMS;
use plateau_shaders::linear::norm_input::WIDE_WORKGROUP;
use plateau_shaders::{KERNELS, Matrices};
use plateau_tests::peaks::Peak;
use std::io::Write;
use std::process::Command;
use targets::{Target, Text};

/// Pairs of kernel and target that naga refuses, with the reason. A pair that translates after all must go.
const REFUSED: &[(&str, Target, &str)] = &[];

/// Messages of spirv-val that are its own mistake: SPIRV-Tools from 2026 on reject the array stride that naga leaves on the
/// type of an array in workgroup memory. Drivers ignore it, and older versions accept it.
const SPIRV_VAL_MISTAKES: [&str; 1] = ["VUID-StandaloneSpirv-None-10684"];

fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

#[test]
fn every_kernel_is_core_webgpu_and_its_rust_side_describes_it() {
    let problems: Vec<String> = KERNELS
        .iter()
        .flat_map(|kernel| {
            let found = match validated(kernel) {
                Ok((module, _)) => reflect::interface(kernel, &module),
                Err(error) => vec![error],
            };
            found
                .into_iter()
                .map(|problem| format!("{}: {problem}", kernel.name))
        })
        .collect();
    report(&problems);
}

#[test]
fn every_pipeline_stays_within_the_default_limits() {
    // Wide workgroups are for adapters that report them.
    let wide = ("WORKGROUP", WIDE_WORKGROUP);
    let problems: Vec<String> = pipelines()
        .iter()
        .filter(|pipeline| !pipeline.constants.contains(&wide))
        .filter(|pipeline| !pipeline.constants.contains(&WIDE_TEAMS))
        .flat_map(|pipeline| {
            let label = pipeline.label();
            reflect::limits(&pipeline.module, &pipeline.info)
                .into_iter()
                .map(move |problem| format!("{label}: {problem}"))
        })
        .collect();
    report(&problems);
}

#[test]
fn every_pipeline_translates_to_every_target_but_for_the_refused() {
    let mut problems = Vec::new();
    let mut refused = Vec::new();
    for pipeline in &pipelines() {
        for target in Target::ALL {
            let name = pipeline.kernel.name;
            let listed = REFUSED
                .iter()
                .any(|&(kernel, on, _)| kernel == name && on == target);
            match targets::translate(&pipeline.module, &pipeline.info, name, target) {
                Ok(_) => {}
                Err(_) if listed => refused.push((name, target)),
                Err(error) => problems.push(format!("{} to {target:?}: {error}", pipeline.label())),
            }
        }
    }
    for &(kernel, target, _) in REFUSED
        .iter()
        .filter(|row| !refused.contains(&(row.0, row.1)))
    {
        problems.push(format!(
            "{kernel} to {target:?} is not refused: take it out of REFUSED"
        ));
    }
    report(&problems);
}

#[test]
fn a_dot_product_of_four_bytes_is_one_instruction_where_the_target_has_it() {
    let mut problems = Vec::new();
    for pipeline in pipelines()
        .iter()
        .filter(|pipeline| pipeline.kernel.wgsl().contains("dot4I8Packed"))
    {
        let translate = |target| {
            targets::translate(
                &pipeline.module,
                &pipeline.info,
                pipeline.kernel.name,
                target,
            )
        };
        // A refused pair is the business of another test.
        if let Ok(Text::Source(hlsl)) = translate(Target::Hlsl64)
            && !hlsl.contains("dot4add_i8packed")
        {
            problems.push(format!(
                "{}: no dot4add_i8packed in HLSL 6.4",
                pipeline.label()
            ));
        }
        if let Ok(Text::Words(spirv)) = translate(Target::SpirvDotProduct)
            && !targets::has_instruction(&spirv, targets::OP_S_DOT)
        {
            problems.push(format!("{}: no OpSDot in SPIR-V", pipeline.label()));
        }
    }
    report(&problems);
}

#[test]
fn spirv_val_accepts_every_pipeline() {
    // Straight to stderr, so that the harness shows it for a test that passes.
    let say = |line: String| {
        writeln!(std::io::stderr(), "spirv-val: {line}").expect("stderr takes a line")
    };
    if Command::new("spirv-val").arg("--version").output().is_err() {
        say("skipped, it is not installed (package spirv-tools)".to_owned());
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("kernel.spv");
    let mut problems = Vec::new();
    for pipeline in &pipelines() {
        for target in Target::ALL {
            let Some(environment) = target.vulkan_environment() else {
                continue;
            };
            let Ok(Text::Words(words)) = targets::translate(
                &pipeline.module,
                &pipeline.info,
                pipeline.kernel.name,
                target,
            ) else {
                continue;
            };
            std::fs::write(&path, bytemuck::cast_slice::<u32, u8>(&words))
                .expect("the temporary folder takes a file");
            let output = Command::new("spirv-val")
                .args(["--target-env", environment])
                .arg(&path)
                .output()
                .expect("spirv-val started before");
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() {
                continue;
            }
            if SPIRV_VAL_MISTAKES.iter().any(|id| message.contains(id)) {
                say(format!(
                    "{} for {environment}: known mistake: {message}",
                    pipeline.label()
                ));
            } else {
                problems.push(format!("{} for {environment}: {message}", pipeline.label()));
            }
        }
    }
    report(&problems);
}

/// What Metal's compiler takes: its own matrices, loaded from scalars.
#[test]
fn kernels_with_matrices_of_8_translate_to_msl() {
    let pipelines = pipelines_of(|kernel| kernel.matrices() == Some(Matrices::F16By8));
    assert!(!pipelines.is_empty());
    for pipeline in &pipelines {
        let name = pipeline.kernel.name;
        let text = match targets::translate(&pipeline.module, &pipeline.info, name, Target::Msl30) {
            Ok(Text::Source(text)) => text,
            _ => panic!("{} does not translate", pipeline.label()),
        };
        for word in [
            "simdgroup_half8x8",
            "simdgroup_float8x8",
            "simdgroup_multiply_accumulate",
        ] {
            assert!(text.contains(word), "{}: {word}", pipeline.label());
        }
        // The names of tiles whose elements are vectors.
        let of_vectors = ["half4", "float4"].map(|vector| format!("threadgroup {vector}"));
        assert!(!of_vectors.iter().any(|words| text.contains(words)));
    }
}

/// The kernels on cooperative matrices, as the executor hands them to Vulkan: the f16 ones through naga as they are, the INT8 ones with
/// their matrix types put in.
#[test]
fn kernels_with_matrices_translate_to_spirv() {
    let mut problems = Vec::new();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("kernel.spv");
    let mut pipelines = pipelines_of(|kernel| kernel.matrices().is_some());
    assert!(pipelines.len() >= 4, "the kernels with matrices");
    let peaks = Peak::ALL.map(|peak| peak.case(0)).into_iter();
    for case in peaks.filter(|case| case.kernel.matrices().is_some()) {
        let peak = pipeline(case.kernel, case.constants);
        pipelines.push(peak.unwrap_or_else(|error| panic!("{error}")));
    }
    for pipeline in &pipelines {
        let name = pipeline.kernel.name;
        let words = match pipeline.kernel.matrices() {
            Some(Matrices::Int8) => {
                plateau::exec::int8_module(pipeline.kernel, &pipeline.constants)
            }
            _ => targets::with_matrices(&pipeline.module, &pipeline.info, name),
        };
        let words = match words {
            Ok(words) => words,
            Err(error) => {
                problems.push(format!("{}: {error}", pipeline.label()));
                continue;
            }
        };
        std::fs::write(&path, bytemuck::cast_slice::<u32, u8>(&words))
            .expect("the temporary folder takes a file");
        let Ok(output) = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.3"])
            .arg(&path)
            .output()
        else {
            continue;
        };
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // Versions before 2023.3 do not know the extension.
        let too_old = message.contains("Invalid capability operand: 6022");
        let mistake = SPIRV_VAL_MISTAKES.iter().any(|id| message.contains(id));
        if too_old || mistake {
            writeln!(std::io::stderr(), "spirv-val: {name} left out: {message}")
                .expect("stderr takes a line");
        } else if !output.status.success() {
            problems.push(format!("{}: {message}", pipeline.label()));
        }
    }
    report(&problems);
}
