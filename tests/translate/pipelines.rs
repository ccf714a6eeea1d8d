//! Every kernel with every set of constants, validated.

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{
    Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{Module, ShaderStage};
use plateau_shaders::{Constant, KERNELS, Kernel};
use plateau_tests::cases;
use std::borrow::Cow;

/// What core WebGPU has and naga asks about: `pack2x16float` and its kin. No f16, no immediates; subgroups only for
/// kernels that say so.
const CORE: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

/// A kernel as a driver gets it: validated, its overrides set.
pub struct Pipeline {
    pub kernel: &'static Kernel,
    pub constants: Vec<Constant>,
    pub module: Module,
    pub info: ModuleInfo,
}

impl Pipeline {
    pub fn label(&self) -> String {
        format!("{} {:?}", self.kernel.name, self.constants)
    }
}

/// Parses and validates the joined text.
pub fn validated(kernel: &Kernel) -> Result<(Module, ModuleInfo), String> {
    let text = kernel.wgsl();
    let module =
        naga::front::wgsl::parse_str(&text).map_err(|error| error.emit_to_string(&text))?;
    let mut validator = Validator::new(ValidationFlags::all(), CORE);
    if kernel.subgroups {
        let mut capabilities = CORE | Capabilities::SUBGROUP;
        if kernel.matrices().is_some() {
            capabilities |= Capabilities::COOPERATIVE_MATRIX
                | Capabilities::SHADER_FLOAT16
                | Capabilities::SUBGROUP_BARRIER;
        }
        validator = Validator::new(ValidationFlags::all(), capabilities);
        validator
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator
        .validate(&module)
        .map_err(|error| error.emit_to_string(&text))?;
    Ok((module, info))
}

/// A kernel with its overrides set.
pub fn pipeline(kernel: &'static Kernel, constants: Vec<Constant>) -> Result<Pipeline, String> {
    let (module, info) = validated(kernel)?;
    let values = constants
        .iter()
        .map(|&(name, value)| (name.to_owned(), f64::from(value)))
        .collect();
    let (module, info) = process_overrides(
        &module,
        &info,
        Some((ShaderStage::Compute, kernel.name)),
        &values,
    )
    .map(|(module, info)| (Cow::into_owned(module), Cow::into_owned(info)))
    .map_err(|error| format!("{} {constants:?}: {error}", kernel.name))?;
    Ok(Pipeline {
        kernel,
        constants,
        module,
        info,
    })
}

/// Every kernel that all targets take, with its defaults and with each set of constants that a case uses.
pub fn pipelines() -> Vec<Pipeline> {
    pipelines_of(|kernel| kernel.matrices().is_none())
}

pub fn pipelines_of(wanted: fn(&Kernel) -> bool) -> Vec<Pipeline> {
    let cases = cases::all();
    let mut pipelines = Vec::new();
    for &kernel in KERNELS.iter().filter(|kernel| wanted(kernel)) {
        let (module, _) =
            validated(kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.name));
        let mut sets: Vec<Vec<Constant>> = Vec::new();
        if module
            .overrides
            .iter()
            .all(|(_, constant)| constant.init.is_some())
        {
            sets.push(Vec::new());
        }
        for case in cases.iter().filter(|case| case.kernel.name == kernel.name) {
            let mut constants = case.constants.clone();
            constants.sort_unstable();
            sets.push(constants);
        }
        sets.sort_unstable();
        sets.dedup();
        for constants in sets {
            pipelines.push(pipeline(kernel, constants).unwrap_or_else(|error| panic!("{error}")));
        }
    }
    pipelines
}
