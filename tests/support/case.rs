//! A case: one dispatch of one kernel with its inputs, and how its outputs are judged. The same cases test and time.

use crate::tolerance::Tolerance;
use bytemuck::{NoUninit, Pod};
use plateau_shaders::{Constant, FEW_REGISTERS, Kernel};
use std::sync::Arc;

/// How one output binding is compared with the twin's.
#[derive(Clone, Debug)]
pub enum Check {
    /// Every word equal.
    Exact,
    /// Words are f32; see [`Tolerance`].
    Close(Tolerance),
    /// Words are pairs of halves; see [`Tolerance`].
    CloseHalves(Tolerance),
    /// Words are four i8: flat integers of floats that are not quite the twin's. Near a tie a value may be one step off, and then
    /// one of its parts is, with all that repeat it.
    OneStep,
    /// Words are flat integers of floats that a device may round otherwise: the value of each channel, the sum of its parts, is
    /// within one step of the twin's, and its flat channels are the parts of that value.
    FlatWithinStep(Arc<FlatRow>),
}

/// What the flat channels of a row are.
#[derive(Clone, Debug)]
pub struct FlatRow {
    pub features: u32,
    pub q_max: u32,
    /// As the kernels bind it: parts of each channel, then the extra channels.
    pub map: Vec<u32>,
}

/// One dispatch with its inputs.
#[derive(Clone, Debug)]
pub struct Case {
    pub kernel: &'static Kernel,
    /// What makes this case different from its neighbours: `rows=63 in=257 outliers`. Unique for the kernel.
    pub name: String,
    pub params: Vec<u8>,
    pub constants: Vec<Constant>,
    pub grid: [u32; 3],
    /// Initial words of the storage bindings 1, 2, …, outputs too.
    pub buffers: Vec<Vec<u32>>,
    /// The bindings that the kernel writes (1, 2, …) and how each is judged.
    pub outputs: Vec<(usize, Check)>,
    /// Operations of the useful work: two for a multiply-add. Zero where nobody would count them.
    pub ops: u64,
    /// What the twin runs instead, where it would take long: a smaller case, whose outputs this one's repeat over and over.
    pub repeats: Option<Arc<Case>>,
}

impl Case {
    pub fn new<P: Pod>(
        kernel: &'static Kernel,
        name: impl Into<String>,
        params: P,
        grid: [u32; 3],
    ) -> Self {
        Self {
            kernel,
            name: name.into(),
            params: bytemuck::bytes_of(&params).to_vec(),
            constants: Vec::new(),
            grid,
            buffers: Vec::new(),
            outputs: Vec::new(),
            ops: 0,
            repeats: None,
        }
    }

    /// This case with the rows of `small`, over and over: the same but for the number of rows, which comes first in the shape
    /// of every buffer that depends on it.
    pub fn repeating(mut self, small: Self) -> Self {
        for (words, small) in self.buffers.iter_mut().zip(&small.buffers) {
            for (i, word) in words.iter_mut().enumerate() {
                *word = small[i % small.len()];
            }
        }
        self.repeats = Some(Arc::new(small));
        self
    }

    /// Sets an `override`.
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// The same in few registers.
    pub fn in_few_registers(mut self) -> Self {
        let (name, value) = FEW_REGISTERS;
        self.name += &format!(" {name}={value}");
        self.constant(name, value)
    }

    /// The next storage binding, which is only read.
    pub fn input<T: NoUninit>(mut self, values: &[T]) -> Self {
        self.buffers.push(words(values));
        self
    }

    /// The next storage binding, which is written: its words before the dispatch.
    pub fn output<T: NoUninit>(mut self, before: &[T], check: Check) -> Self {
        self.buffers.push(words(before));
        self.outputs.push((self.buffers.len(), check));
        self
    }

    /// Operations of the useful work.
    pub fn ops(mut self, ops: u64) -> Self {
        self.ops = ops;
        self
    }

    /// Words that the dispatch reads or writes at least once, in bytes.
    pub fn bytes(&self) -> u64 {
        self.buffers
            .iter()
            .map(|words| 4 * words.len() as u64)
            .sum()
    }
}

fn words<T: NoUninit>(values: &[T]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytemuck::cast_slice::<T, u8>(values))
}
