//! What a kernel is: WGSL text, the shape of its bindings, and the twin that defines it.

use bytemuck::{AnyBitPattern, NoUninit};

/// How a kernel uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// The value of a WGSL `override` for one pipeline.
pub type Constant = (&'static str, u32);

/// The value of the `override` by which some kernels run in fewer registers, with the same bits.
pub const FEW_REGISTERS: Constant = ("FEW_REGISTERS", 1);

/// Cooperative matrices, which a kernel's text enables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// 16 by 16 of f16 with sums in f32.
    F16,
    /// 8 by 8 of f16 with sums in f32, which Metal has.
    F16By8,
    /// 16 by 32 of INT8 with sums in i32, for which the text has stand-ins: gemm_coop16_int8.wgsl.
    Int8,
}

/// One compute kernel and its twin.
///
/// Binding 0 of group 0 is the uniform `params`; storage bindings follow from 1 in the order of `bindings`.
pub struct Kernel {
    /// File stem, WGSL entry point, pipeline label, bench row: one word to search for.
    pub name: &'static str,
    /// WGSL. Several parts are joined by plain concatenation (a main loop and an epilogue).
    pub source: &'static [&'static str],
    /// The storage bindings 1, 2, …
    pub bindings: &'static [Access],
    /// Size of the uniform at binding 0.
    pub params_bytes: usize,
    /// Whether the text uses subgroup operations, which an adapter may lack. No kernel relies on a subgroup size.
    pub subgroups: bool,
    /// The twin: does what the whole dispatch does, on host memory.
    pub run: fn(&mut Call<'_>),
}

impl Kernel {
    /// The cooperative matrices that it needs.
    pub fn matrices(&self) -> Option<Matrices> {
        let has = |words: &str| self.source.iter().any(|part| part.contains(words));
        match (has("enable wgpu_cooperative_matrix;"), has("enable f16;")) {
            (true, true) if has("coop_mat8x8<") => Some(Matrices::F16By8),
            (true, true) => Some(Matrices::F16),
            (true, false) => Some(Matrices::Int8),
            (false, _) => None,
        }
    }

    /// Whether its text has an `override` of that name.
    pub fn has_override(&self, name: &str) -> bool {
        let declared = format!("override {name}:");
        self.source.iter().any(|part| part.contains(&declared))
    }

    /// The whole WGSL text.
    pub fn wgsl(&self) -> String {
        self.source.concat()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One storage binding as a twin sees it: 32-bit words of host memory.
pub enum Buffer<'a> {
    Read(&'a [u32]),
    ReadWrite(&'a mut [u32]),
}

/// What a twin is given: the very parameters and bindings of the dispatch.
pub struct Call<'a> {
    params: &'a [u8],
    constants: &'a [Constant],
    buffers: Vec<Buffer<'a>>,
}

impl<'a> Call<'a> {
    /// `buffers` in the order of [`Kernel::bindings`].
    pub fn new(params: &'a [u8], constants: &'a [Constant], buffers: Vec<Buffer<'a>>) -> Self {
        Self {
            params,
            constants,
            buffers,
        }
    }

    /// The uniform at binding 0.
    pub fn params<P: AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }

    /// The value of an `override`, or `default` (that of the WGSL) where the dispatch does not set it.
    pub fn constant(&self, name: &str, default: u32) -> u32 {
        self.constants
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(default, |(_, value)| *value)
    }

    /// Storage binding `binding` (1, 2, …), which the kernel only reads.
    pub fn read<T: AnyBitPattern>(&self, binding: usize) -> &'a [T] {
        match &self.buffers[binding - 1] {
            Buffer::Read(words) => bytemuck::cast_slice(words),
            Buffer::ReadWrite(_) => {
                panic!("binding {binding} is read-write: take it with Call::write")
            }
        }
    }

    /// Storage binding `binding` (1, 2, …), which the kernel writes. Each can be taken once.
    pub fn write<T: AnyBitPattern + NoUninit>(&mut self, binding: usize) -> &'a mut [T] {
        match std::mem::replace(&mut self.buffers[binding - 1], Buffer::Read(&[])) {
            Buffer::ReadWrite(words) => bytemuck::cast_slice_mut(words),
            Buffer::Read(_) => panic!("binding {binding} is read-only, or was taken already"),
        }
    }
}

/// `a / b`, rounded up: workgroups of size `b` that cover `a`.
pub const fn div_ceil(a: u32, b: u32) -> u32 {
    a.div_ceil(b)
}
