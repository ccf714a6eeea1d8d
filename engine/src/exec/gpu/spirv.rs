//! SPIR-V for what WGSL cannot say: INT8 cooperative matrices.
//!
//! A kernel that needs them is written in WGSL with *stand-ins*: `coop_mat16x16<f32, A>`, `<f32, B>` and `<f32, C>`, loaded from and
//! stored to words of f32. naga translates it, and [`int8_matrices`] gives the matrices their true types: A of 16 by 32 and B of
//! 32 by 16 signed bytes, C of 16 by 16 i32. A barrier of a subgroup orders its workgroup memory too, which naga's does not, and a loop
//! with one stays a loop: the driver that unrolled it had no room for so many loads. Everything else of the module stays what naga made of the text.

use plateau_shaders::{Constant, Kernel};

/// Words before the first instruction; the fourth is the bound of the ids.
const HEADER_WORDS: usize = 5;
const BOUND: usize = 3;

// Operations, from the unified specification and SPV_KHR_cooperative_matrix.
const OP_EXECUTION_MODE: u32 = 16;
const OP_CAPABILITY: u32 = 17;
const OP_TYPE_INT: u32 = 21;
const OP_TYPE_FLOAT: u32 = 22;
const OP_CONSTANT: u32 = 43;
const OP_CONTROL_BARRIER: u32 = 224;
const OP_LOOP_MERGE: u32 = 246;
const OP_LABEL: u32 = 248;
const OP_TYPE_COOPERATIVE_MATRIX: u32 = 4456;
const OP_COOPERATIVE_MATRIX_MUL_ADD: u32 = 4459;

const CAPABILITY_INT8: u32 = 39;
/// `MatrixASignedComponents` and the three beside it.
const ALL_SIGNED: u32 = 0xf;
/// Uses of a matrix type.
const USE_A: u32 = 0;
const USE_B: u32 = 1;
const USE_ACCUMULATOR: u32 = 2;
const MODE_LOCAL_SIZE: u32 = 17;
const DONT_UNROLL: u32 = 2;
const SCOPE_WORKGROUP: u32 = 2;
const SCOPE_SUBGROUP: u32 = 3;
/// Features that one multiply-add of bytes takes.
const K: u32 = 32;

/// The SPIR-V of a kernel with stand-ins for INT8 matrices.
pub fn module(kernel: &Kernel, constants: &[Constant]) -> Result<Vec<u32>, String> {
    let words = translate(kernel, constants)?;
    int8_matrices(&words).map_err(|reason| format!("{}: {reason}", kernel.name))
}

/// Invocations of a workgroup of a module in x, y and z.
pub(super) fn workgroup_size(words: &[u32]) -> Result<(u32, u32, u32), String> {
    instructions(words)?
        .iter()
        .find_map(|&(operation, words)| match (operation, words) {
            (OP_EXECUTION_MODE, &[_, _, MODE_LOCAL_SIZE, x, y, z]) => Some((x, y, z)),
            _ => None,
        })
        .ok_or_else(|| "a module without the size of its workgroups".to_owned())
}

/// What naga makes of the text, without the checks that wgpu would ask for: see `pipeline::compile`.
fn translate(kernel: &Kernel, constants: &[Constant]) -> Result<Vec<u32>, String> {
    use naga::back::spv;
    use naga::valid::{
        Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
    };

    let text = kernel.wgsl();
    let module =
        naga::front::wgsl::parse_str(&text).map_err(|error| error.emit_to_string(&text))?;
    let capabilities =
        Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .map_err(|error| error.emit_to_string(&text))?;
    let values = constants
        .iter()
        .map(|&(name, value)| (name.to_owned(), f64::from(value)))
        .collect();
    let entry_point = (naga::ShaderStage::Compute, kernel.name);
    let (module, info) = naga::back::pipeline_constants::process_overrides(
        &module,
        &info,
        Some(entry_point),
        &values,
    )
    .map_err(|error| error.to_string())?;
    let options = spv::Options {
        lang_version: (1, 5),
        flags: spv::WriterFlags::empty(),
        capabilities: Some(
            [
                spv::Capability::Shader,
                spv::Capability::VulkanMemoryModel,
                spv::Capability::CooperativeMatrixKHR,
                spv::Capability::GroupNonUniform,
            ]
            .into_iter()
            .collect(),
        ),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: naga::proc::BoundsCheckPolicy::Unchecked,
            buffer: naga::proc::BoundsCheckPolicy::Unchecked,
            image_load: naga::proc::BoundsCheckPolicy::Unchecked,
            binding_array: naga::proc::BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: kernel.name.to_owned(),
    };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

/// An instruction: its operation, and its words with the first one.
fn instructions(words: &[u32]) -> Result<Vec<(u32, &[u32])>, String> {
    let mut found = Vec::new();
    let mut at = HEADER_WORDS;
    while at < words.len() {
        let len = (words[at] >> 16) as usize;
        let instruction = words
            .get(at..at + len)
            .filter(|instruction| !instruction.is_empty())
            .ok_or_else(|| format!("an instruction of {len} words at word {at}"))?;
        found.push((words[at] & 0xffff, instruction));
        at += len;
    }
    Ok(found)
}

fn instruction(operation: u32, operands: &[u32]) -> Vec<u32> {
    let mut words = vec![(operands.len() as u32 + 1) << 16 | operation];
    words.extend_from_slice(operands);
    words
}

/// The module with the stand-ins replaced.
fn int8_matrices(words: &[u32]) -> Result<Vec<u32>, String> {
    let instructions = instructions(words)?;
    let is_number = |operation| matches!(operation, OP_TYPE_INT | OP_TYPE_FLOAT);
    let int = |signed: u32| {
        instructions
            .iter()
            .find(|(_, words)| words[0] & 0xffff == OP_TYPE_INT && words[2..] == [32, signed])
            .map(|(_, words)| words[1])
    };
    let value = |id: u32| {
        instructions
            .iter()
            .find(|(operation, words)| *operation == OP_CONSTANT && words[2] == id)
            .map(|(_, words)| words[3])
    };
    let (u32_type, i32_type) = int(0)
        .zip(int(1))
        .ok_or("integers of 32 bits are not declared")?;
    let is_barrier = |(operation, words): &(u32, &[u32]), scope: u32| {
        *operation == OP_CONTROL_BARRIER && value(words[1]) == Some(scope)
    };
    let order_of_workgroup_memory = instructions
        .iter()
        .find(|found| is_barrier(found, SCOPE_WORKGROUP))
        .map(|(_, words)| words[3]);
    // Whether the loop that merges in block `merge`, of which `rest` is what follows, has a barrier of a subgroup.
    let is_staged = |merge: u32, rest: &[(u32, &[u32])]| {
        rest.iter()
            .take_while(|(operation, words)| *operation != OP_LABEL || words[1] != merge)
            .any(|found| is_barrier(found, SCOPE_SUBGROUP))
    };
    let mut next_id = words[BOUND];
    let mut new_id = || {
        next_id += 1;
        next_id - 1
    };
    let (i8_type, k) = (new_id(), new_id());

    let mut out = words[..HEADER_WORDS].to_vec();
    let mut types_declared = false;
    let mut matrices = 0;
    for (n, (operation, words)) in instructions.iter().enumerate() {
        match *operation {
            OP_CAPABILITY if out.len() == HEADER_WORDS => {
                out.extend(instruction(OP_CAPABILITY, &[CAPABILITY_INT8]));
            }
            // Numbers depend on nothing: all of them come before the first type.
            operation if (19..=33).contains(&operation) && !types_declared => {
                types_declared = true;
                for (_, words) in instructions.iter().filter(|(op, _)| is_number(*op)) {
                    out.extend_from_slice(words);
                }
                out.extend(instruction(OP_TYPE_INT, &[i8_type, 8, 1]));
                out.extend(instruction(OP_CONSTANT, &[u32_type, k, K]));
            }
            _ => {}
        }
        match *operation {
            operation if is_number(operation) => {}
            OP_TYPE_COOPERATIVE_MATRIX => {
                let [_, id, _, scope, rows, columns, usage] = words[..] else {
                    return Err("a matrix type of other operands".to_owned());
                };
                let (component, rows, columns) = match value(usage) {
                    Some(USE_A) => (i8_type, rows, k),
                    Some(USE_B) => (i8_type, k, columns),
                    Some(USE_ACCUMULATOR) => (i32_type, rows, columns),
                    other => return Err(format!("a matrix of use {other:?}")),
                };
                matrices += 1;
                let operands = [id, component, scope, rows, columns, usage];
                out.extend(instruction(*operation, &operands));
            }
            OP_LOOP_MERGE if is_staged(words[1], &instructions[n..]) => {
                out.extend(instruction(*operation, &[words[1], words[2], DONT_UNROLL]));
            }
            OP_CONTROL_BARRIER if value(words[1]) == Some(SCOPE_SUBGROUP) => {
                let semantics = order_of_workgroup_memory
                    .ok_or("a barrier of subgroups alone, and none of workgroups")?;
                out.extend(instruction(*operation, &[words[1], words[2], semantics]));
            }
            OP_COOPERATIVE_MATRIX_MUL_ADD => {
                let operands = [&words[1..], &[ALL_SIGNED]].concat();
                out.extend(instruction(*operation, &operands));
            }
            _ => out.extend_from_slice(words),
        }
    }
    if matrices != 3 {
        return Err(format!("{matrices} types of matrices, expected A, B and C"));
    }
    out[BOUND] = next_id;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plateau_shaders::linear::{
        gemm_i4_coop16_int8, gemm_i4_coop16_int8_few, gemm_i8_coop16_int8, gemm_i8_coop16_int8_few,
    };

    fn count(words: &[u32], operation: u32) -> usize {
        instructions(words)
            .expect("a module")
            .iter()
            .filter(|(found, _)| *found == operation)
            .count()
    }

    #[test]
    fn matrices_get_their_types_and_nothing_else_changes() {
        for kernel in [
            &gemm_i8_coop16_int8::KERNEL,
            &gemm_i4_coop16_int8::KERNEL,
            &gemm_i8_coop16_int8_few::KERNEL,
            &gemm_i4_coop16_int8_few::KERNEL,
        ] {
            let before = translate(kernel, &[]).expect("a kernel");
            let after = int8_matrices(&before).expect("three types of matrices");
            // Int8 as a capability and a type, and the constant 32.
            assert_eq!(
                count(&after, OP_CAPABILITY),
                count(&before, OP_CAPABILITY) + 1
            );
            assert_eq!(count(&after, OP_TYPE_INT), count(&before, OP_TYPE_INT) + 1);
            assert_eq!(count(&after, OP_CONSTANT), count(&before, OP_CONSTANT) + 1);
            let multiply_adds = count(&before, OP_COOPERATIVE_MATRIX_MUL_ADD);
            assert!(multiply_adds > 0, "{}", kernel.name);
            // In words: 2, 4 and 4, and the signs of each multiply-add.
            let added = 2 + 4 + 4 + multiply_adds;
            assert_eq!(after.len(), before.len() + added, "{}", kernel.name);
        }
    }

    #[test]
    fn subgroups_that_stage_for_themselves_order_their_memory_and_loop() {
        let words = module(&gemm_i4_coop16_int8_few::KERNEL, &[("SUBGROUPS", 16)]);
        let words = words.expect("a kernel");
        assert_eq!(workgroup_size(&words), Ok((512, 1, 1)));
        let found = instructions(&words).expect("a module");
        let barriers: Vec<_> = found
            .iter()
            .filter(|(operation, _)| *operation == OP_CONTROL_BARRIER)
            .collect();
        assert!(barriers.iter().all(|(_, of)| of[3] == barriers[0].1[3]));
        let scopes: std::collections::BTreeSet<u32> =
            barriers.iter().map(|(_, of)| of[1]).collect();
        assert_eq!(scopes.len(), 2, "of subgroups and of workgroups");
        // The loop over the steps, and not those that add sums.
        let kept = found
            .iter()
            .filter(|(operation, of)| *operation == OP_LOOP_MERGE && of[3] == DONT_UNROLL);
        assert_eq!(kept.count(), 1);
    }

    #[test]
    fn a_module_without_matrices_or_cut_off_is_an_error() {
        let words = translate(&gemm_i8_coop16_int8::KERNEL, &[]).expect("a kernel");
        assert!(int8_matrices(&words[..HEADER_WORDS + 1]).is_err());
        assert!(int8_matrices(&words[..HEADER_WORDS]).is_err());
    }
}
