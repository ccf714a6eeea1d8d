//! What naga says about a kernel, against what its Rust side says and what every adapter must offer.

use naga::proc::Layouter;
use naga::valid::ModuleInfo;
use naga::{AddressSpace, Module, StorageAccess};
use plateau_shaders::{Access, Kernel};

/// WebGPU's default limits, which every adapter meets.
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_SIZE: [u32; 3] = [256, 256, 64];
const MAX_WORKGROUP_BYTES: u32 = 16 * 1024;
const MAX_STORAGE_BINDINGS: usize = 8;

/// How the text differs from the [`Kernel`].
pub fn interface(kernel: &Kernel, module: &Module) -> Vec<String> {
    let mut problems = Vec::new();
    let entry_points: Vec<&str> = module
        .entry_points
        .iter()
        .map(|entry_point| entry_point.name.as_str())
        .collect();
    if entry_points != [kernel.name] {
        problems.push(format!(
            "entry points {entry_points:?}, expected [{:?}]",
            kernel.name
        ));
    }
    let layouter = layouter(module);
    let mut storage = Vec::new();
    let mut uniforms = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let name = variable.name.as_deref().unwrap_or("?");
        let slot = variable
            .binding
            .map(|binding| (binding.group, binding.binding));
        match variable.space {
            AddressSpace::Storage { access } => {
                let access = if access.contains(StorageAccess::STORE) {
                    Access::ReadWrite
                } else {
                    Access::Read
                };
                storage.push((slot, access));
            }
            AddressSpace::Uniform => {
                uniforms.push((slot, name, layouter[variable.ty].size as usize))
            }
            AddressSpace::WorkGroup | AddressSpace::Private => {}
            _ => problems.push(format!("variable {name} is in {:?}", variable.space)),
        }
    }
    let expected_uniforms = [(Some((0, 0)), "params", kernel.params_bytes)];
    if uniforms != expected_uniforms {
        problems.push(format!(
            "uniforms (slot, name, bytes) {uniforms:?}, expected {expected_uniforms:?}"
        ));
    }
    let expected: Vec<_> = (1..)
        .zip(kernel.bindings)
        .map(|(slot, &access)| (Some((0, slot)), access))
        .collect();
    storage.sort_by_key(|&(slot, _)| slot);
    if storage != expected {
        problems.push(format!(
            "storage bindings {storage:?}, expected {expected:?}"
        ));
    }
    if storage.len() > MAX_STORAGE_BINDINGS {
        problems.push(format!(
            "{} storage bindings, at most {MAX_STORAGE_BINDINGS}",
            storage.len()
        ));
    }
    problems
}

/// What is over the default limits. The overrides are set.
pub fn limits(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let layouter = layouter(module);
    let mut problems = Vec::new();
    for (index, entry_point) in module.entry_points.iter().enumerate() {
        let size = entry_point.workgroup_size;
        let invocations: u32 = size.iter().product();
        if invocations > MAX_INVOCATIONS || (0..3).any(|axis| size[axis] > MAX_WORKGROUP_SIZE[axis])
        {
            problems.push(format!(
                "workgroup {size:?}, at most {MAX_INVOCATIONS} in all and {MAX_WORKGROUP_SIZE:?}"
            ));
        }
        // As wgpu counts: every variable that the entry point reaches, each on 16 bytes.
        let bytes: u32 = module
            .global_variables
            .iter()
            .filter(|(handle, variable)| {
                variable.space == AddressSpace::WorkGroup
                    && !info.get_entry_point(index)[*handle].is_empty()
            })
            .map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16))
            .sum();
        if bytes > MAX_WORKGROUP_BYTES {
            problems.push(format!(
                "{bytes} bytes of workgroup memory, at most {MAX_WORKGROUP_BYTES}"
            ));
        }
    }
    problems
}

fn layouter(module: &Module) -> Layouter {
    let mut layouter = Layouter::default();
    layouter
        .update(module.to_ctx())
        .expect("the validator accepted every type");
    layouter
}
