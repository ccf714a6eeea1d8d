//! Translation by naga, with the options that wgpu uses.

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};

/// What a driver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Vulkan 1.1 with no feature but subgroups (validation refuses those to portable kernels): dot products of bytes are
    /// spelled out.
    Spirv,
    /// Vulkan 1.3 with its integer dot product.
    SpirvDotProduct,
    /// DirectX 12, shader model 5.1, which has no subgroups.
    Hlsl51,
    /// DirectX 12, shader model 6.0.
    Hlsl60,
    /// DirectX 12, shader model 6.2.
    Hlsl62,
    /// DirectX 12, shader model 6.4, which has `dot4add_i8packed`.
    Hlsl64,
    /// Metal 3.
    Msl30,
}

impl Target {
    pub const ALL: [Self; 7] = [
        Self::Spirv,
        Self::SpirvDotProduct,
        Self::Hlsl51,
        Self::Hlsl60,
        Self::Hlsl62,
        Self::Hlsl64,
        Self::Msl30,
    ];

    /// The Vulkan whose rules spirv-val applies.
    pub fn vulkan_environment(self) -> Option<&'static str> {
        match self {
            Self::Spirv => Some("vulkan1.1"),
            Self::SpirvDotProduct => Some("vulkan1.3"),
            Self::Hlsl51 | Self::Hlsl60 | Self::Hlsl62 | Self::Hlsl64 | Self::Msl30 => None,
        }
    }
}

/// A translated kernel.
pub enum Text {
    Words(Vec<u32>),
    Source(String),
}

const CHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};

pub fn translate(
    module: &Module,
    info: &ModuleInfo,
    entry_point: &str,
    target: Target,
) -> Result<Text, String> {
    use spv::Capability as C;
    match target {
        Target::Spirv => {
            let capabilities = [
                C::Shader,
                C::Linkage,
                C::GroupNonUniform,
                C::GroupNonUniformArithmetic,
                C::GroupNonUniformShuffle,
            ];
            spirv(module, info, entry_point, (1, 3), &capabilities)
        }
        Target::SpirvDotProduct => {
            let capabilities = [
                C::Shader,
                C::Linkage,
                C::GroupNonUniform,
                C::GroupNonUniformArithmetic,
                C::GroupNonUniformShuffle,
                C::Int8,
                C::DotProduct,
                C::DotProductInput4x8Bit,
                C::DotProductInput4x8BitPacked,
            ];
            spirv(module, info, entry_point, (1, 6), &capabilities)
        }
        Target::Hlsl51 => hlsl(module, info, entry_point, hlsl::ShaderModel::V5_1),
        Target::Hlsl62 => hlsl(module, info, entry_point, hlsl::ShaderModel::V6_2),
        Target::Hlsl60 => hlsl(module, info, entry_point, hlsl::ShaderModel::V6_0),
        Target::Hlsl64 => hlsl(module, info, entry_point, hlsl::ShaderModel::V6_4),
        Target::Msl30 => msl(module, info, entry_point),
    }
}

/// SPIR-V of a kernel with cooperative matrices of f16, for Vulkan 1.3.
pub fn with_matrices(
    module: &Module,
    info: &ModuleInfo,
    entry_point: &str,
) -> Result<Vec<u32>, String> {
    use spv::Capability as C;
    let capabilities = [
        C::Shader,
        C::GroupNonUniform,
        C::Float16,
        C::Int8,
        C::StorageBuffer16BitAccess,
        C::UniformAndStorageBuffer16BitAccess,
        C::VulkanMemoryModel,
        C::CooperativeMatrixKHR,
    ];
    match spirv(module, info, entry_point, (1, 6), &capabilities)? {
        Text::Words(words) => Ok(words),
        Text::Source(_) => Err("a text instead of words".to_owned()),
    }
}

fn spirv(
    module: &Module,
    info: &ModuleInfo,
    entry_point: &str,
    lang_version: (u8, u8),
    capabilities: &[spv::Capability],
) -> Result<Text, String> {
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::empty(),
        capabilities: Some(capabilities.iter().copied().collect()),
        bounds_check_policies: CHECKED,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: entry_point.to_owned(),
    };
    spv::write_vec(module, info, &options, Some(&pipeline))
        .map(Text::Words)
        .map_err(|error| error.to_string())
}

fn hlsl(
    module: &Module,
    info: &ModuleInfo,
    entry_point: &str,
    model: hlsl::ShaderModel,
) -> Result<Text, String> {
    // As wgpu does for the engine, which wants no checks: loops that count their turns take FXC minutes, where it takes them at all.
    let options = hlsl::Options {
        shader_model: model,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry_point.to_owned())),
    };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None);
    let names = written
        .map_err(|error| error.to_string())?
        .entry_point_names;
    names
        .into_iter()
        .collect::<Result<Vec<String>, _>>()
        .map_err(|error| error.to_string())?;
    Ok(Text::Source(text))
}

fn msl(module: &Module, info: &ModuleInfo, entry_point: &str) -> Result<Text, String> {
    let options = msl::Options {
        lang_version: (3, 0),
        bounds_check_policies: CHECKED,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry_point.to_owned())),
        ..Default::default()
    };
    let (text, written) =
        msl::write_string(module, info, &options, &pipeline).map_err(|error| error.to_string())?;
    written
        .entry_point_names
        .into_iter()
        .collect::<Result<Vec<String>, _>>()
        .map_err(|error| error.to_string())?;
    Ok(Text::Source(text))
}

/// `OpSDot` of SPIR-V 1.6, which is `OpSDotKHR` of the extension.
pub const OP_S_DOT: u32 = 4450;

/// Whether a SPIR-V module has an instruction: a header of five words, then instructions that begin with a word of
/// (number of words, operation).
pub fn has_instruction(words: &[u32], operation: u32) -> bool {
    const HEADER_WORDS: usize = 5;
    let mut at = HEADER_WORDS;
    while let Some(&word) = words.get(at) {
        if word & 0xffff == operation {
            return true;
        }
        at += (word >> 16).max(1) as usize;
    }
    false
}
