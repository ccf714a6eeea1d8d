//! What an adapter can do at most: small kernels that only copy, read or calculate. Their speeds are what the speeds of real
//! kernels are compared with. Each is a [`Case`], so that it is checked and timed as every other kernel is.
//!
//! One more peak is a row of [`Peak::ALL`], a kernel, its twin and its case.

use crate::case::{Case, Check};
use crate::rng::Rng;
use bytemuck::{Pod, Zeroable};
use plateau_shaders::{Access, Call, Kernel, Matrices};
use std::sync::Arc;

/// A rate that bounds others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peak {
    /// Bytes read and written by a copy.
    Copy,
    /// Bytes read by a sum.
    Read,
    /// Integer operations in `dot4I8Packed`, eight each.
    Dot4,
    /// Float operations in `fma`, two each.
    F32,
    /// The same on pairs of f16.
    F16,
    /// Operations of matrices of f16.
    Coop,
    /// Operations of INT8 matrices.
    CoopInt8,
}

impl Peak {
    pub const ALL: [Self; 7] = [
        Self::Copy,
        Self::Read,
        Self::Dot4,
        Self::F32,
        Self::F16,
        Self::Coop,
        Self::CoopInt8,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Read => "read",
            Self::Dot4 => "dot4",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Coop => "coop",
            Self::CoopInt8 => "coop-int8",
        }
    }

    /// Whether it bounds operations, not bytes.
    pub const fn is_of_operations(self) -> bool {
        match self {
            Self::Copy | Self::Read => false,
            Self::Dot4 | Self::F32 | Self::F16 | Self::Coop | Self::CoopInt8 => true,
        }
    }

    /// The one that bounds a kernel's operations, by the instruction that its text multiplies with; `None` for one that is
    /// not measured.
    pub fn of_operations(kernel: &Kernel) -> Option<Self> {
        let wgsl = kernel.wgsl();
        if let Some(matrices) = kernel.matrices() {
            Some(match matrices {
                // There is no peak of matrices of 8 by 8.
                Matrices::F16By8 => return None,
                Matrices::F16 => Self::Coop,
                Matrices::Int8 => Self::CoopInt8,
            })
        } else if wgsl.contains("dot4I8Packed(") {
            Some(Self::Dot4)
        } else if wgsl.contains("fma(") && wgsl.contains("enable f16;") {
            Some(Self::F16)
        } else if wgsl.contains("fma(") {
            Some(Self::F32)
        } else {
            None
        }
    }

    /// `size` doublings of the smallest case, up to [`Peak::LARGEST`]. An adapter is given the largest that it runs in about
    /// [`Peak::LONG_ENOUGH_NS`].
    pub fn case(self, size: u32) -> Case {
        match self {
            Self::Copy => copy(SMALLEST_VECTORS << size),
            Self::Read => read(SMALLEST_VECTORS << size),
            Self::Dot4 => dot4(SMALLEST_GROUPS << size),
            Self::F32 => f32(SMALLEST_GROUPS << size),
            Self::F16 => f16(SMALLEST_GROUPS << size),
            Self::Coop => coop(&COOP, SMALLEST_GROUPS << size, 16),
            Self::CoopInt8 => coop(&COOP_INT8, SMALLEST_GROUPS << size, 32),
        }
    }

    pub const LARGEST: u32 = 5;
    pub const LONG_ENOUGH_NS: f64 = 1e6;
}

/// 16 MiB; the largest is 512 MiB, more than any cache.
const SMALLEST_VECTORS: u32 = 1 << 20;
const SMALLEST_GROUPS: u32 = 128;
const LOOPS: u32 = 512;
const LANES: u32 = 256;
const ACCUMULATORS: u32 = 8;
/// Enough to fill every GPU some times over; of a memory-bound kernel each has several turns.
const MOST_GROUPS: u32 = 16384;

const fn kernel(
    name: &'static str,
    source: &'static [&'static str],
    run: fn(&mut Call<'_>),
) -> Kernel {
    Kernel {
        name,
        source,
        bindings: &[Access::Read, Access::ReadWrite],
        params_bytes: size_of::<Params>(),
        subgroups: false,
        run,
    }
}

static COPY: Kernel = kernel("peak_copy", &[include_str!("peak_copy.wgsl")], run_copy);
static READ: Kernel = kernel("peak_read", &[include_str!("peak_read.wgsl")], run_read);
static DOT4: Kernel = kernel("peak_dot4", &[include_str!("peak_dot4.wgsl")], run_dot4);
static F32: Kernel = kernel("peak_f32", &[include_str!("peak_f32.wgsl")], run_f32);

static F16: Kernel = kernel("peak_f16", &[include_str!("peak_f16.wgsl")], run_f16);
static COOP: Kernel = Kernel {
    subgroups: true,
    ..kernel(
        "peak_coop16",
        &[
            include_str!("peak_coop16.wgsl"),
            include_str!("peak_coop.wgsl"),
        ],
        run_coop,
    )
};
static COOP_INT8: Kernel = Kernel {
    subgroups: true,
    ..kernel(
        "peak_coop16_int8",
        &[
            include_str!("peak_coop16_int8.wgsl"),
            include_str!("peak_coop.wgsl"),
        ],
        run_coop_int8,
    )
};

/// Vectors or loops, and the workgroups: see the headers of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Params {
    count: u32,
    groups: u32,
}

fn case_of(kernel: &'static Kernel, name: String, count: u32, groups: u32) -> Case {
    Case::new(kernel, name, Params { count, groups }, [groups, 1, 1])
}

fn words(count: u32) -> Vec<u32> {
    let mut rng = Rng::new(u64::from(count));
    (0..count).map(|_| rng.next_u32()).collect()
}

fn mib(vectors: u32) -> String {
    format!("{} MiB", vectors >> 16)
}

fn copy(vectors: u32) -> Case {
    let groups = (vectors / LANES).min(MOST_GROUPS);
    let y = vec![0u32; 4 * vectors as usize];
    case_of(&COPY, mib(vectors), vectors, groups)
        .input(&words(4 * vectors))
        .output(&y, Check::Exact)
}

fn run_copy(call: &mut Call<'_>) {
    let count = 4 * call.params::<Params>().count as usize;
    let x: &[u32] = call.read(1);
    call.write::<u32>(2)[..count].copy_from_slice(&x[..count]);
}

fn read(vectors: u32) -> Case {
    let groups = (vectors / (8 * LANES)).min(MOST_GROUPS);
    let y = vec![0u32; groups as usize];
    case_of(&READ, mib(vectors), vectors, groups)
        .input(&words(4 * vectors))
        .output(&y, Check::Exact)
}

fn run_read(call: &mut Call<'_>) {
    let Params { count, groups } = call.params();
    let count = 4 * count as usize;
    let x: &[u32] = call.read(1);
    let y = &mut call.write::<u32>(2)[..groups as usize];
    y.fill(0);
    for (turn, words) in x[..count].chunks(4 * LANES as usize).enumerate() {
        let sum = words.iter().fold(0u32, |sum, &word| sum.wrapping_add(word));
        let y = &mut y[turn % y.len()];
        *y = y.wrapping_add(sum);
    }
}

/// A case whose workgroups all do the same: the twin runs one of them.
fn same_groups<T: Pod>(
    kernel: &'static Kernel,
    groups: u32,
    x: &[T],
    ops_of_accumulator: u32,
) -> Case {
    let with = |groups: u32| {
        let y = vec![0u32; (groups * LANES) as usize];
        let ops = u64::from(LOOPS * ACCUMULATORS * ops_of_accumulator) * u64::from(groups * LANES);
        let name = format!("workgroups={groups} loops={LOOPS}");
        case_of(kernel, name, LOOPS, groups)
            .input(bytemuck::cast_slice::<T, u32>(x))
            .output(&y, Check::Exact)
            .ops(ops)
    };
    Case {
        repeats: Some(Arc::new(with(1))),
        ..with(groups)
    }
}

fn dot4(groups: u32) -> Case {
    same_groups(&DOT4, groups, &words(LANES), 8)
}

fn run_dot4(call: &mut Call<'_>) {
    let Params { count, groups } = call.params();
    let x = &call.read::<u32>(1)[..LANES as usize];
    let y = &mut call.write::<i32>(2)[..(groups * LANES) as usize];
    for (i, y) in y.iter_mut().enumerate() {
        let b = x[i % x.len()];
        let dot = |a: i32| -> i32 {
            let bytes = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            bytes
                .map(|(a, b)| i32::from(a as i8) * i32::from(b as i8))
                .sum()
        };
        let accumulators = (0..ACCUMULATORS).map(|k| {
            let start = (b as i32).wrapping_add(k as i32);
            (0..count).fold(start, |a, _| a.wrapping_add(dot(a)))
        });
        *y = accumulators.fold(0, i32::wrapping_add);
    }
}

/// Factors of -1 and whole addends: exact, also where a device does not fuse.
fn f32(groups: u32) -> Case {
    let mut rng = Rng::new(u64::from(LANES));
    let x: Vec<[f32; 2]> = (0..LANES).map(|_| [-1.0, rng.below(64) as f32]).collect();
    same_groups(&F32, groups, &x, 2)
}

fn run_f32(call: &mut Call<'_>) {
    run_fma(call, 1.0);
}

/// What `lanes` of the same values come to.
fn run_fma(call: &mut Call<'_>, lanes: f64) {
    let Params { count, groups } = call.params();
    let x = &call.read::<[f32; 2]>(1)[..LANES as usize];
    let y = &mut call.write::<f32>(2)[..(groups * LANES) as usize];
    for (i, y) in y.iter_mut().enumerate() {
        let [b, c] = x[i % x.len()].map(f64::from);
        let accumulators =
            (0..ACCUMULATORS).map(|k| (0..count).fold(f64::from(k), |a, _| a * b + c));
        *y = (lanes * accumulators.sum::<f64>()) as f32;
    }
}

/// The factors of the f32 case, and addends that stay exact.
fn f16(groups: u32) -> Case {
    let mut rng = Rng::new(u64::from(LANES) + 1);
    let x: Vec<[f32; 2]> = (0..LANES).map(|_| [-1.0, rng.below(64) as f32]).collect();
    same_groups(&F16, groups, &x, 4)
}

/// Both halves are the same.
fn run_f16(call: &mut Call<'_>) {
    run_fma(call, 2.0);
}

const FRAG: usize = 16;
const X_FRAGS: usize = 4;
const W_FRAGS: usize = 2;
/// Of a workgroup.
const BLOCKS: u32 = 8;

/// Integers of -1, 0 and 1: their sums are exact, also in f32. `k` is the features of a matrix.
fn coop(kernel: &'static Kernel, groups: u32, k: usize) -> Case {
    let mut rng = Rng::new(k as u64);
    let x: Vec<i8> = (0..(X_FRAGS + W_FRAGS) * FRAG * k)
        .map(|_| rng.below(3) as i8 - 1)
        .collect();
    let with = |groups: u32| {
        let y = vec![0u32; groups as usize * FRAG * FRAG];
        let products = (X_FRAGS * W_FRAGS * FRAG * FRAG * k) as u64;
        let ops = 2 * products * u64::from(LOOPS * BLOCKS * groups);
        let name = format!("workgroups={groups} loops={LOOPS}");
        case_of(kernel, name, LOOPS, groups)
            .input(bytemuck::cast_slice::<i8, u32>(&x))
            .output(&y, Check::Exact)
            .ops(ops)
    };
    Case {
        repeats: Some(Arc::new(with(1))),
        ..with(groups)
    }
}

/// The sums of a workgroup, [16, 16].
fn coop_sums(call: &Call<'_>, k: usize) -> Vec<i32> {
    let matrix = FRAG * k;
    let (x, w) = call.read::<i8>(1)[..(X_FRAGS + W_FRAGS) * matrix].split_at(X_FRAGS * matrix);
    let loops = call.params::<Params>().count as i32;
    let sum = |row: usize, out: usize| {
        let x = x.chunks_exact(matrix).map(|x| &x[row * k..][..k]);
        let dots = x.flat_map(|x| {
            let w = w.chunks_exact(matrix).map(|w| &w[out * k..][..k]);
            w.flat_map(move |w| x.iter().zip(w).map(|(x, w)| i32::from(*x) * i32::from(*w)))
        });
        loops * dots.sum::<i32>()
    };
    (0..FRAG * FRAG)
        .map(|at| sum(at / FRAG, at % FRAG))
        .collect()
}

fn run_coop(call: &mut Call<'_>) {
    let sums = coop_sums(call, 16);
    let groups = call.params::<Params>().groups as usize;
    let y = &mut call.write::<f32>(2)[..groups * sums.len()];
    for (y, sum) in y.iter_mut().zip(sums.iter().cycle()) {
        *y = *sum as f32;
    }
}

fn run_coop_int8(call: &mut Call<'_>) {
    let sums = coop_sums(call, 32);
    let groups = call.params::<Params>().groups as usize;
    let y = &mut call.write::<i32>(2)[..groups * sums.len()];
    for (y, sum) in y.iter_mut().zip(sums.iter().cycle()) {
        *y = *sum;
    }
}
