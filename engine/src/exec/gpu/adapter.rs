//! Finding, describing, choosing and opening adapters.

use super::{GpuExecutor, GpuOptions, choice, matrices};
use crate::exec::{
    AdapterInfo, AttentionChoice, DISCRETE, DeviceChoice, DeviceError, INTEGRATED, KernelChoice,
    KernelChoices, SOFTWARE,
};
use plateau_shaders::Matrices;
use std::sync::OnceLock;
use wgpu::{Backend, Backends, DeviceType, Features, Limits};

/// What every kernel of the portable set may use: WebGPU's default limits.
fn needed() -> Limits {
    Limits::default()
}

/// Features that are used where an adapter has them.
const WANTED: Features = Features::SUBGROUP
    .union(super::profile::WANTED)
    .union(matrices::FEATURES);

/// The process's one way to its GPUs. Kept for good: with an instance for each opening, a process on an NVIDIA card saw no
/// adapter any more after some tens of them, probably since the driver was loaded anew each time.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        // WGPU_BACKEND=dx12 leaves the others out, as in every program on wgpu.
        desc.backends =
            Backends::VULKAN | Backends::METAL | Backends::DX12 | Backends::BROWSER_WEBGPU;
        desc.backends = desc.backends.with_env();
        // No validation layers in a product, and no extra dispatch in front of each indirect one: the plan's own
        // kernels write the indirect grids.
        desc.flags = wgpu::InstanceFlags::empty();
        wgpu::Instance::new(desc)
    })
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Vulkan => "vulkan",
        Backend::Metal => "metal",
        Backend::Dx12 => "dx12",
        Backend::BrowserWebGpu => "webgpu",
        Backend::Gl => "gl",
        Backend::Noop => "noop",
    }
}

fn kind_name(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::DiscreteGpu => DISCRETE,
        DeviceType::IntegratedGpu => INTEGRATED,
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => SOFTWARE,
        DeviceType::Other => "other",
    }
}

/// Smaller is better: by kind, then by backend; of software drivers SwiftShader comes last, being the slowest by far.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8, bool) {
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        Backend::Metal => 0,
        Backend::Vulkan => 1,
        Backend::Dx12 => 2,
        Backend::BrowserWebGpu | Backend::Gl | Backend::Noop => 3,
    };
    (kind, backend, info.name.contains("SwiftShader"))
}

/// Every adapter, best first.
async fn enumerate() -> Vec<(wgpu::Adapter, AdapterInfo)> {
    let adapters = instance().enumerate_adapters(Backends::all()).await;
    let found = adapters.into_iter().map(|adapter| {
        let info = adapter.get_info();
        (adapter, info)
    });
    best_first(found.collect())
        .into_iter()
        .enumerate()
        .map(|(index, (adapter, info))| {
            let described = describe(index, &adapter, &info);
            (adapter, described)
        })
        .collect()
}

/// Sorts adapters by [`rank`]; a GPU that two backends show is kept once, through the better backend.
fn best_first<T>(mut found: Vec<(T, wgpu::AdapterInfo)>) -> Vec<(T, wgpu::AdapterInfo)> {
    found.sort_by_key(|(_, info)| rank(info));
    let mut unique: Vec<(T, wgpu::AdapterInfo)> = Vec::new();
    for (adapter, info) in found {
        let known = unique
            .iter()
            .any(|(_, other)| other.backend != info.backend && same_gpu(other, &info));
        if !known {
            unique.push((adapter, info));
        }
    }
    unique
}

fn same_gpu(a: &wgpu::AdapterInfo, b: &wgpu::AdapterInfo) -> bool {
    let by_bus = !a.device_pci_bus_id.is_empty() && a.device_pci_bus_id == b.device_pci_bus_id;
    by_bus || (a.vendor == b.vendor && a.device == b.device && a.name == b.name)
}

fn describe(index: usize, adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo) -> AdapterInfo {
    let features = adapter.features();
    let limits = adapter.limits();
    let driver = [info.driver.as_str(), info.driver_info.as_str()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    AdapterInfo {
        index,
        name: info.name.clone(),
        backend: backend_name(info.backend),
        kind: kind_name(info.device_type),
        driver: if driver.is_empty() {
            "driver unknown".to_owned()
        } else {
            driver
        },
        memory: memory(adapter),
        features: vec![
            ("shader-f16", features.contains(Features::SHADER_F16)),
            ("subgroups", features.contains(Features::SUBGROUP)),
            (
                "cooperative-matrix",
                features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            ),
            (
                "spirv-passthrough",
                features.contains(Features::PASSTHROUGH_SHADERS),
            ),
            ("timestamps", features.contains(Features::TIMESTAMP_QUERY)),
            (
                "pipeline-cache",
                features.contains(Features::PIPELINE_CACHE),
            ),
        ],
        limits: vec![
            (
                "storage-binding-bytes",
                limits.max_storage_buffer_binding_size,
            ),
            ("buffer-bytes", limits.max_buffer_size),
            (
                "workgroup-memory-bytes",
                u64::from(limits.max_compute_workgroup_storage_size),
            ),
            (
                "workgroup-invocations",
                u64::from(limits.max_compute_invocations_per_workgroup),
            ),
            (
                "storage-buffers",
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
            ("subgroup-min", u64::from(info.subgroup_min_size)),
            ("subgroup-max", u64::from(info.subgroup_max_size)),
        ],
        matrices: Vec::new(),
        gemms: Vec::new(),
        unusable: unusable(&limits).or_else(|| without_dxc(info.backend, features)),
    }
}

/// Why DirectX 12 cannot be used, if so. wgpu takes `dxcompiler.dll` from beside the program or from the path; without it there is
/// shader model 5.1, which has no subgroups, and FXC, which refuses attention.
fn without_dxc(backend: Backend, features: Features) -> Option<String> {
    (backend == Backend::Dx12 && !features.contains(Features::SUBGROUP)).then(|| {
        "DirectX 12 has shader model 5.1 here, the kernels need 6.0: put dxcompiler.dll, 1.8.2502 or later, beside the program \
         (github.com/microsoft/DirectXShaderCompiler), or install a Vulkan driver"
            .to_owned()
    })
}

/// The first limit under what the kernels need, as a sentence.
fn unusable(limits: &Limits) -> Option<String> {
    let needed = needed();
    let checks = [
        (
            "storage buffers of a shader",
            limits.max_storage_buffers_per_shader_stage.into(),
            needed.max_storage_buffers_per_shader_stage.into(),
        ),
        (
            "bytes of workgroup memory",
            limits.max_compute_workgroup_storage_size.into(),
            needed.max_compute_workgroup_storage_size.into(),
        ),
        (
            "invocations of a workgroup",
            limits.max_compute_invocations_per_workgroup.into(),
            needed.max_compute_invocations_per_workgroup.into(),
        ),
        (
            "bytes of a storage binding",
            limits.max_storage_buffer_binding_size,
            needed.max_storage_buffer_binding_size,
        ),
    ];
    checks
        .iter()
        .find(|(_, found, needed): &&(&str, u64, u64)| found < needed)
        .map(|(what, found, needed)| {
            format!("{what}: the adapter has {found}, the kernels need {needed}")
        })
}

/// Device-local memory in bytes, where it can be asked for.
#[cfg(not(any(target_arch = "wasm32", target_vendor = "apple")))]
fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handle is only used for one query while the adapter is alive, and nothing of it is kept or destroyed.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance; the call only reads.
    let heaps =
        unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
    let largest = heaps.memory_heaps[..heaps.memory_heap_count as usize]
        .iter()
        .filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0)
        .map(|heap| heap.size)
        .max();
    largest.filter(|&bytes| bytes > 0)
}

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
fn memory(_adapter: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The GPUs of this machine, best first; one seen through two backends is listed once. Matrices that one reports are tested.
pub async fn adapters() -> Vec<AdapterInfo> {
    let mut infos = Vec::new();
    for (adapter, mut info) in enumerate().await {
        let reported = matrices::reported(&adapter);
        if info.kind == SOFTWARE {
            let unused = |_| Err("not used on a software driver".to_owned());
            let states = reported.into_iter();
            info.matrices = states.map(|(m, s)| (m, s.and_then(unused))).collect();
        } else if info.unusable.is_none() {
            let options = GpuOptions::default();
            let opened = open_device(adapter, info.clone(), false).await;
            let settled = match opened {
                Ok(mut executor) => {
                    let listed: Vec<Matrices> = reported
                        .iter()
                        .filter(|(_, state)| state.is_ok())
                        .map(|(matrices, _)| *matrices)
                        .collect();
                    let settled = choice::settle(&mut executor, reported, &options).await;
                    settled.map(|()| {
                        let mut info = executor.info;
                        for matrices in listed {
                            if info.matrices.iter().all(|(other, _)| *other != matrices) {
                                let state = Err("slower in the trial".to_owned());
                                info.matrices.push((matrices, state));
                            }
                        }
                        info
                    })
                }
                Err(error) => Err(error),
            };
            match settled {
                Ok(settled) => info = settled,
                Err(error) => info.unusable = Some(error.to_string()),
            }
        }
        infos.push(info);
    }
    infos
}

/// Opens what `choice` names, with the reason for it. [`DeviceChoice::Twin`] is not for here.
pub(in crate::exec) async fn open(
    choice: &DeviceChoice,
    kernels: KernelChoices,
) -> Result<(GpuExecutor, String), DeviceError> {
    let found = enumerate().await;
    let infos: Vec<AdapterInfo> = found.iter().map(|(_, info)| info.clone()).collect();
    let (index, reason) = choose(choice, &infos)?;
    let (adapter, info) = found
        .into_iter()
        .nth(index)
        .expect("choose gives an index of the list");
    let options = GpuOptions {
        kernels: kernels.linears,
        attention: kernels.attention,
        ..GpuOptions::default()
    };
    let executor = open_adapter(adapter, info, options).await?;
    Ok((executor, reason))
}

/// Which adapter of the list, best first, `choice` means, and why.
fn choose(choice: &DeviceChoice, adapters: &[AdapterInfo]) -> Result<(usize, String), DeviceError> {
    let known = || {
        let mut names: Vec<String> = adapters
            .iter()
            .map(|a| format!("{} {} ({}, {})", a.index, a.name, a.backend, a.kind))
            .collect();
        names.push("twin".to_owned());
        names.join("; ")
    };
    let refuse_unusable = |adapter: &AdapterInfo| match &adapter.unusable {
        Some(reason) => Err(DeviceError::Refused {
            name: adapter.name.clone(),
            reason: reason.clone(),
        }),
        None => Ok(()),
    };
    match choice {
        DeviceChoice::Twin => Err(DeviceError::NoAdapter),
        DeviceChoice::Auto => {
            let best = adapters
                .iter()
                .find(|a| a.unusable.is_none())
                .ok_or(DeviceError::NoAdapter)?;
            let others = adapters.len() - 1;
            let reason = match (best.kind, others) {
                ("software", _) => {
                    "a software driver, as there is no GPU that can be used".to_owned()
                }
                (_, 0) => "the only adapter".to_owned(),
                (kind, _) => format!("the best of {} adapters ({kind})", adapters.len()),
            };
            Ok((best.index, reason))
        }
        DeviceChoice::Index(index) => {
            let adapter = adapters.get(*index).ok_or_else(|| DeviceError::Unknown {
                wanted: index.to_string(),
                known: known(),
            })?;
            refuse_unusable(adapter)?;
            Ok((*index, "asked for by its index".to_owned()))
        }
        DeviceChoice::Name(name) => {
            let wanted = name.to_lowercase();
            let matches: Vec<&AdapterInfo> = adapters
                .iter()
                .filter(|a| a.name.to_lowercase().contains(&wanted))
                .collect();
            match matches[..] {
                [] => Err(DeviceError::Unknown {
                    wanted: name.clone(),
                    known: known(),
                }),
                [adapter] => {
                    refuse_unusable(adapter)?;
                    Ok((adapter.index, "asked for by name".to_owned()))
                }
                _ => Err(DeviceError::Ambiguous {
                    wanted: name.clone(),
                    matches: matches
                        .iter()
                        .map(|a| format!("{} {}", a.index, a.name))
                        .collect::<Vec<_>>()
                        .join("; "),
                }),
            }
        }
    }
}

/// Every adapter, opened with `options`, or why it cannot be used: what tests run on.
pub async fn open_all(options: GpuOptions) -> Vec<Result<GpuExecutor, DeviceError>> {
    let mut opened = Vec::new();
    for (adapter, info) in enumerate().await {
        // Without dxcompiler.dll some of the portable kernels can be tested.
        let unusable = match options.portable {
            true => unusable(&adapter.limits()),
            false => info.unusable.clone(),
        };
        opened.push(match unusable {
            Some(reason) => Err(DeviceError::Refused {
                name: info.name.clone(),
                reason,
            }),
            None => open_adapter(adapter, info, options).await,
        });
    }
    opened
}

/// Opens an adapter, and settles what its integer GEMMs and prefill attention run on.
async fn open_adapter(
    adapter: wgpu::Adapter,
    info: AdapterInfo,
    options: GpuOptions,
) -> Result<GpuExecutor, DeviceError> {
    // Software drivers compute matrices as everything else.
    let asks = match options.kernels {
        _ if options.portable => false,
        KernelChoice::Auto => info.kind != SOFTWARE,
        KernelChoice::Dot4 | KernelChoice::F32 => false,
        KernelChoice::Coop | KernelChoice::CoopInt8 => true,
    };
    let reported = if asks {
        matrices::reported(&adapter)
    } else {
        Vec::new()
    };
    let attention = (options.attention == AttentionChoice::Coop && !options.portable)
        .then(|| matrices::lacks(&adapter, Matrices::F16));
    let mut executor = open_device(adapter, info, options.portable).await?;
    executor.features.fused |= options.always_fuse;
    executor.features.few_registers |= options.few_registers;
    if let Some(reported) = attention {
        let tested = match reported {
            Ok(()) => matrices::attention_test(&mut executor).await,
            lacking => lacking,
        };
        tested.map_err(|reason| DeviceError::Kernels {
            name: executor.info.name.clone(),
            wanted: "attention on coop",
            reason,
        })?;
        executor.features.matrix_attention = true;
    }
    if !options.portable {
        choice::settle(&mut executor, reported, &options).await?;
    }
    let is_forced = asks && options.kernels != KernelChoice::Auto;
    if is_forced && executor.features.gemms.matrices().is_none() {
        let states = executor.info.matrices.iter();
        let mut reasons: Vec<String> = states.filter_map(|(_, s)| s.clone().err()).collect();
        reasons.dedup();
        return Err(DeviceError::Kernels {
            name: executor.info.name.clone(),
            wanted: options.kernels.name(),
            reason: reasons.join("; "),
        });
    }
    Ok(executor)
}

async fn open_device(
    adapter: wgpu::Adapter,
    info: AdapterInfo,
    portable: bool,
) -> Result<GpuExecutor, DeviceError> {
    let (required_features, required_limits) = if portable {
        (Features::empty(), needed())
    } else {
        (adapter.features() & WANTED, adapter.limits())
    };
    // SAFETY: the one experimental feature that is asked for is that of cooperative matrices. The kernels that use them run after a
    // self-test, with sizes that the adapter lists.
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            label: Some("plateau"),
            required_features,
            required_limits,
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        })
        .await
        .map_err(|error| DeviceError::Refused {
            name: info.name.clone(),
            reason: error.to_string(),
        })?;
    Ok(GpuExecutor::new(device, queue, info))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::GemmUnit;

    fn adapter(index: usize, name: &str, kind: &'static str) -> AdapterInfo {
        AdapterInfo {
            index,
            name: name.to_owned(),
            backend: "vulkan",
            kind,
            driver: String::new(),
            memory: None,
            features: Vec::new(),
            limits: Vec::new(),
            matrices: Vec::new(),
            gemms: Vec::new(),
            unusable: None,
        }
    }

    #[test]
    fn directx_without_dxc_is_refused_and_says_what_is_missing() {
        let reason = without_dxc(Backend::Dx12, Features::empty()).expect("it has no subgroups");
        assert!(reason.contains("dxcompiler.dll"), "{reason}");
        assert_eq!(without_dxc(Backend::Dx12, Features::SUBGROUP), None);
        assert_eq!(without_dxc(Backend::Vulkan, Features::empty()), None);
    }

    #[test]
    fn registers_are_few_where_memory_is_shared_or_subgroups_are_small() {
        let few = |kind, subgroup_min| {
            let mut adapter = adapter(0, "GPU", kind);
            adapter.limits = vec![
                ("workgroup-invocations", 1024),
                ("workgroup-memory-bytes", 48 << 10),
                ("subgroup-min", subgroup_min),
            ];
            let features = adapter.plan_features();
            assert_eq!(features.wide_workgroups, !features.few_registers);
            features.few_registers
        };
        assert!(few(INTEGRATED, 32));
        assert!(few(DISCRETE, 8));
        assert!(!few(DISCRETE, 32));
        assert!(!few(SOFTWARE, 8));
    }

    #[test]
    fn gemms_that_failed_their_self_test_are_not_chosen() {
        let mut info = adapter(0, "Big GPU", "discrete");
        let [int8, f16] = [Matrices::Int8, Matrices::F16].map(GemmUnit::Matrices);
        info.gemms = vec![(int8, 20.0), (f16, 30.0), (GemmUnit::Dot4, 70.0)];
        let chosen = |info: &AdapterInfo| info.plan_features().gemms;
        assert_eq!(chosen(&info), GemmUnit::Dot4);
        info.matrices = vec![
            (Matrices::Int8, Err("wrong".to_owned())),
            (Matrices::F16, Ok(())),
        ];
        assert_eq!(chosen(&info), f16);
    }

    #[test]
    fn auto_takes_the_first_usable_adapter() {
        let mut list = vec![
            adapter(0, "Big GPU", "discrete"),
            adapter(1, "llvmpipe", "software"),
        ];
        assert_eq!(
            choose(&DeviceChoice::Auto, &list).expect("one is usable").0,
            0
        );
        list[0].unusable = Some("too small".to_owned());
        let (index, reason) = choose(&DeviceChoice::Auto, &list).expect("one is usable");
        assert_eq!(index, 1);
        assert!(reason.contains("software"), "{reason}");
        assert!(matches!(
            choose(&DeviceChoice::Auto, &[]),
            Err(DeviceError::NoAdapter)
        ));
    }

    #[test]
    fn a_gpu_of_two_backends_is_listed_once_and_the_best_comes_first() {
        let info = |name: &str, kind, backend, bus: &str| {
            let mut info = wgpu::AdapterInfo::new(kind, backend);
            info.name = name.to_owned();
            info.device_pci_bus_id = bus.to_owned();
            ((), info)
        };
        let (discrete, integrated) = (DeviceType::DiscreteGpu, DeviceType::IntegratedGpu);
        let found = vec![
            info("llvmpipe", DeviceType::Cpu, Backend::Vulkan, ""),
            info("Small", integrated, Backend::Dx12, "0000:00:02.0"),
            info(
                "Small (by another driver)",
                integrated,
                Backend::Vulkan,
                "0000:00:02.0",
            ),
            info("Big", discrete, Backend::Dx12, ""),
            info("Big", discrete, Backend::Vulkan, ""),
            info("Big", discrete, Backend::Vulkan, ""),
        ];
        let names: Vec<(String, Backend)> = best_first(found)
            .into_iter()
            .map(|((), info)| (info.name, info.backend))
            .collect();
        let expected = [
            ("Big", Backend::Vulkan),
            ("Big", Backend::Vulkan),
            ("Small (by another driver)", Backend::Vulkan),
            ("llvmpipe", Backend::Vulkan),
        ];
        assert_eq!(
            names,
            expected.map(|(name, backend)| (name.to_owned(), backend))
        );
    }

    #[test]
    fn names_match_in_any_case_and_must_be_unique() {
        let list = vec![
            adapter(0, "Radeon A", "discrete"),
            adapter(1, "Radeon B", "integrated"),
        ];
        let by = |name: &str| choose(&DeviceChoice::Name(name.to_owned()), &list);
        assert_eq!(by("radeon b").expect("unique").0, 1);
        assert!(matches!(by("radeon"), Err(DeviceError::Ambiguous { .. })));
        let unknown = by("arc").expect_err("there is none").to_string();
        assert!(
            unknown.contains("'arc'") && unknown.contains("Radeon A"),
            "{unknown}"
        );
        let index = choose(&DeviceChoice::Index(2), &list)
            .expect_err("there are two")
            .to_string();
        assert!(index.contains("'2'"), "{index}");
    }
}
