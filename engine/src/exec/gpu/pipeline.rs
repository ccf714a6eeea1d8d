//! Kernels to pipelines, each compiled once.

use super::spirv;
use crate::plan::{Dispatch, Plan};
use plateau_shaders::{Access, Constant, Kernel, Matrices};
use std::collections::BTreeMap;
use std::num::NonZeroU64;

type Key = (&'static str, Vec<Constant>);

struct Layout {
    bind_group: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// The pipelines of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    layouts: BTreeMap<&'static str, Layout>,
    pipelines: BTreeMap<Key, wgpu::ComputePipeline>,
}

impl Pipelines {
    /// Compiles what `plan` needs and is not there yet, in parallel where there are threads.
    pub(super) async fn compile(
        &mut self,
        device: &wgpu::Device,
        plan: &Plan,
    ) -> Result<(), String> {
        let mut missing: BTreeMap<Key, &'static Kernel> = BTreeMap::new();
        for dispatch in &plan.dispatches {
            if !self.pipelines.contains_key(&key(dispatch)) {
                missing.insert(key(dispatch), dispatch.kernel);
            }
            self.layouts
                .entry(dispatch.kernel.name)
                .or_insert_with(|| layout(device, dispatch.kernel));
        }
        let layouts = &self.layouts;
        let compiled = in_parallel(
            missing.into_iter().collect(),
            |((name, constants), kernel)| {
                let pipeline = compile(device, kernel, &constants, &layouts[name].pipeline);
                pipeline.map(|pipeline| ((name, constants), pipeline))
            },
        );
        for result in compiled {
            let (key, pipeline) = result?;
            self.pipelines.insert(key, pipeline);
        }
        Ok(())
    }

    /// The pipeline of a dispatch whose plan was compiled, and the layout of its bind group.
    pub(super) fn of(
        &self,
        dispatch: &Dispatch,
    ) -> (&wgpu::ComputePipeline, &wgpu::BindGroupLayout) {
        (
            &self.pipelines[&key(dispatch)],
            &self.layouts[dispatch.kernel.name].bind_group,
        )
    }
}

fn key(dispatch: &Dispatch) -> Key {
    (dispatch.kernel.name, dispatch.constants.clone())
}

fn layout(device: &wgpu::Device, kernel: &Kernel) -> Layout {
    let entry = |binding: u32, ty: wgpu::BufferBindingType, min: u64| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            min_binding_size: NonZeroU64::new(min),
        },
        count: None,
    };
    let uniform = entry(
        0,
        wgpu::BufferBindingType::Uniform,
        kernel.params_bytes as u64,
    );
    let storage = kernel.bindings.iter().enumerate().map(|(i, access)| {
        let read_only = *access == Access::Read;
        entry(
            i as u32 + 1,
            wgpu::BufferBindingType::Storage { read_only },
            0,
        )
    });
    let entries: Vec<_> = std::iter::once(uniform).chain(storage).collect();
    let bind_group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(kernel.name),
        entries: &entries,
    });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name),
        bind_group_layouts: &[Some(&bind_group)],
        immediate_size: 0,
    });
    Layout {
        bind_group,
        pipeline,
    }
}

fn compile(
    device: &wgpu::Device,
    kernel: &Kernel,
    constants: &[Constant],
    layout: &wgpu::PipelineLayout,
) -> Result<wgpu::ComputePipeline, String> {
    // Error scopes belong to the thread that pushes them. wgpu-core has the result at once, so the future is ready.
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    // wgpu's checks cost half of the time on some drivers.
    // SAFETY: the text is one of our kernels. Their loops end (bounds are parameters or sizes of a page), and they index
    // within buffers that `plan` and `model` size: the tests run each of them, in odd sizes, next to sentinels and against
    // twins whose indices are checked. What a user types (ids, positions, lengths) is checked by `session` before.
    let (module, constants) = if kernel.matrices() == Some(Matrices::Int8) {
        let words = spirv::module(kernel, constants)?;
        let desc = wgpu::ShaderModuleDescriptorPassthrough {
            label: Some(kernel.name),
            entry_points: vec![wgpu::PassthroughShaderEntryPoint {
                name: kernel.name.into(),
                workgroup_size: spirv::workgroup_size(&words)?,
            }]
            .into(),
            spirv: Some(words.into()),
            ..Default::default()
        };
        (
            unsafe { device.create_shader_module_passthrough(desc) },
            Vec::new(),
        )
    } else {
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(kernel.wgsl().into()),
        };
        let unchecked = wgpu::ShaderRuntimeChecks::unchecked();
        let values = constants
            .iter()
            .map(|(name, value)| (*name, f64::from(*value)));
        (
            unsafe { device.create_shader_module_trusted(desc, unchecked) },
            values.collect(),
        )
    };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name),
        layout: Some(layout),
        module: &module,
        entry_point: Some(kernel.name),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            // The kernels on matrices write their workgroup memory before they read it.
            zero_initialize_workgroup_memory: kernel.matrices().is_none(),
        },
        cache: None,
    });
    let (internal, validation) = (now(internal.pop()), now(validation.pop()));
    if let Some(error) = internal.or(validation) {
        return Err(format!("{}: {error}", kernel.name));
    }
    Ok(pipeline)
}

/// The value of a future that is ready already; `None` where it is not (the web, which reports through the device).
fn now<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => None,
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(|| work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

#[cfg(target_arch = "wasm32")]
fn in_parallel<T, R>(items: Vec<T>, work: impl Fn(T) -> R) -> Vec<R> {
    items.into_iter().map(work).collect()
}
