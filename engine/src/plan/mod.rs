//! What to run: plain data, with no device in sight.
//!
//! A [`Plan`] is a list of dispatches over named buffers. *Shared* buffers (weights, KV pools, the rows of a step) belong to
//! a [`SharedBuffers`] table and outlive every plan; *scratch* buffers belong to one plan. Both executors of
//! [`crate::exec`] run the same plan. An independent output is a buffer of its own: drivers and wgpu order whole buffers, so
//! an arena would serialize everything.

use bytemuck::Pod;
pub use plateau_shaders::Matrices;
pub use plateau_shaders::linear::norm_input::WIDE_WORKGROUP;
use plateau_shaders::{Access, Constant, Kernel};

/// Bytes of memory of a wide workgroup.
pub const WIDE_MEMORY: u32 = 32 << 10;

/// A buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BufferId {
    /// Index in the [`SharedBuffers`].
    Shared(u32),
    /// Index in [`Plan::scratch`].
    Scratch(u32),
}

/// A buffer's name for people, and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDesc {
    /// `layers.3.mlp.down_proj.w`
    pub label: String,
    /// 32-bit words; at least one.
    pub words: u64,
}

impl BufferDesc {
    pub const fn bytes(&self) -> u64 {
        self.words.saturating_mul(4)
    }
}

/// The buffers that outlive a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedBuffers {
    pub descs: Vec<BufferDesc>,
}

impl SharedBuffers {
    pub fn add(&mut self, label: impl Into<String>, words: u64) -> BufferId {
        self.descs.push(BufferDesc {
            label: label.into(),
            words: words.max(1),
        });
        BufferId::Shared(self.descs.len() as u32 - 1)
    }

    pub fn bytes(&self) -> u64 {
        self.descs.iter().map(BufferDesc::bytes).sum()
    }
}

/// How many workgroups run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// In x, y, z.
    Fixed([u32; 3]),
    /// Three words of a buffer that an earlier dispatch wrote, from word `offset`.
    Indirect { buffer: BufferId, offset: u64 },
}

/// One kernel over its bindings.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// What it makes, for people: `layers.3.mlp.down_proj`.
    pub label: String,
    pub kernel: &'static Kernel,
    /// The bytes of the kernel's `Params`.
    pub params: Vec<u8>,
    pub constants: Vec<Constant>,
    /// In the order of [`Kernel::bindings`].
    pub bindings: Vec<BufferId>,
    pub grid: Grid,
}

impl Dispatch {
    /// The bindings that the kernel writes.
    pub fn writes(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.with_access(Access::ReadWrite)
    }

    /// The bindings that the kernel only reads.
    pub fn reads(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.with_access(Access::Read)
    }

    fn with_access(&self, access: Access) -> impl Iterator<Item = BufferId> + '_ {
        self.bindings
            .iter()
            .zip(self.kernel.bindings)
            .filter(move |(_, a)| **a == access)
            .map(|(id, _)| *id)
    }
}

/// What integer GEMMs of many rows run on. Their results are the same in every bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GemmUnit {
    /// Dot products of four bytes.
    #[default]
    Dot4,
    /// Products of f32, where a dot product of bytes is no instruction.
    F32,
    /// Cooperative matrices, which passed the self-test.
    Matrices(Matrices),
}

impl GemmUnit {
    pub const fn matrices(self) -> Option<Matrices> {
        match self {
            Self::Dot4 | Self::F32 => None,
            Self::Matrices(matrices) => Some(matrices),
        }
    }

    /// As `--kernels` names it, and `devices` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dot4 => "dot4",
            Self::F32 => "f32",
            Self::Matrices(Matrices::Int8) => "coop-int8",
            Self::Matrices(Matrices::F16) => "coop",
            Self::Matrices(Matrices::F16By8) => "coop 8x8",
        }
    }
}

/// What a plan may ask of a device beyond the portable set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Subgroup operations, of any size.
    pub subgroups: bool,
    /// Arithmetic in f16.
    pub f16: bool,
    /// Dispatches of a decode step that do the work of several, some of it in every workgroup anew: a gain where dispatches cost more
    /// than arithmetic does.
    pub fused: bool,
    /// Workgroups of [`WIDE_WORKGROUP`] invocations, with [`WIDE_MEMORY`] bytes of memory and registers for them.
    pub wide_workgroups: bool,
    /// An invocation has 128 registers or fewer: compilers for Intel's, Qualcomm's and Apple's GPUs keep in memory what is more.
    pub few_registers: bool,
    /// What the integer GEMMs of many rows run on.
    pub gemms: GemmUnit,
    /// Attention on cooperative matrices of f16, where they passed the self-test.
    pub matrix_attention: bool,
}

/// A list of dispatches, run in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// By which `ops` chooses kernels.
    pub features: Features,
    pub scratch: Vec<BufferDesc>,
    pub dispatches: Vec<Dispatch>,
}

impl Plan {
    /// An empty plan for a device with `features`.
    pub fn new(features: Features) -> Self {
        Self {
            features,
            ..Self::default()
        }
    }

    /// Adds a scratch buffer. Its contents are undefined until a dispatch writes them.
    pub fn scratch(&mut self, label: impl Into<String>, words: u64) -> BufferId {
        self.scratch.push(BufferDesc {
            label: label.into(),
            words: words.max(1),
        });
        BufferId::Scratch(self.scratch.len() as u32 - 1)
    }

    /// The scratch buffer of this label and size, for operations that each are done with it before the next one writes it.
    pub fn shared_scratch(&mut self, label: &str, words: u64) -> BufferId {
        let shared = |desc: &BufferDesc| desc.label == label && desc.words == words.max(1);
        match self.scratch.iter().position(shared) {
            Some(index) => BufferId::Scratch(index as u32),
            None => self.scratch(label, words),
        }
    }

    pub fn scratch_bytes(&self) -> u64 {
        self.scratch.iter().map(BufferDesc::bytes).sum()
    }

    /// Adds a dispatch of `kernel`.
    ///
    /// # Panics
    /// When the call does not fit the kernel: that is a mistake in `ops`, not something that a user can cause.
    pub fn dispatch<P: Pod>(
        &mut self,
        label: impl Into<String>,
        kernel: &'static Kernel,
        params: P,
        grid: Grid,
        bindings: &[BufferId],
    ) -> &mut Dispatch {
        let label = label.into();
        let params = bytemuck::bytes_of(&params).to_vec();
        assert_eq!(
            params.len(),
            kernel.params_bytes,
            "{label}: size of the parameters of {}",
            kernel.name
        );
        assert_eq!(
            bindings.len(),
            kernel.bindings.len(),
            "{label}: number of bindings of {}",
            kernel.name
        );
        for (i, id) in bindings.iter().enumerate() {
            let elsewhere = bindings
                .iter()
                .enumerate()
                .any(|(j, other)| i != j && id == other);
            assert!(
                !(elsewhere && kernel.bindings[i] == Access::ReadWrite),
                "{label}: a buffer that {} writes is bound twice",
                kernel.name
            );
        }
        self.dispatches.push(Dispatch {
            label,
            kernel,
            params,
            constants: Vec::new(),
            bindings: bindings.to_vec(),
            grid,
        });
        self.dispatches.last_mut().expect("one was pushed")
    }
}
