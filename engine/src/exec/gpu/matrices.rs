//! Cooperative matrices: which ones an adapter reports, and the self-test before any is used.
//!
//! They are experimental in wgpu: its translator leaves out memory semantics that the specification asks for, and drivers have crashed on
//! sizes that they do not list. So a kernel on matrices runs only where the very size is listed, and where its results were equal to the
//! twin's, on this adapter, in this process.

use super::GpuExecutor;
use crate::exec::DeviceError;
use crate::plan::{BufferId, Dispatch, Grid, Plan};
use plateau_shaders::attention::{attention_prefill_coop16, paged_attention};
use plateau_shaders::linear::integer::{self, FewRows, Params};
use plateau_shaders::linear::{
    gemm_i4_coop8, gemm_i4_coop16, gemm_i4_coop16_int8, gemm_i4_coop16_int8_few, gemm_i8,
    gemm_i8_coop8, gemm_i8_coop16, gemm_i8_coop16_int8, gemm_i8_coop16_int8_few,
};
use plateau_shaders::{Access, Buffer, Call, Constant, Kernel, Matrices};
use wgpu::{CooperativeScalarType, Features};

/// What the kernels on matrices need of an adapter.
pub(super) const FEATURES: Features = Features::SHADER_F16
    .union(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
    .union(Features::PASSTHROUGH_SHADERS);

/// Sums themselves, not what the epilogue makes of them: floats would hide a bit that is wrong.
const RAW: Constant = ("RAW_ACCUMULATORS", 1);

/// Bytes of workgroup memory of the kernels on matrices, the most of them.
const WORKGROUP_BYTES: u32 = 49_152;
/// Of those on matrices of 8 by 8.
const WORKGROUP_BYTES_BY_8: u32 = 11_264;

/// The matrices that the kernels can use, the best first, and what the adapter lacks for them.
pub(super) fn reported(adapter: &wgpu::Adapter) -> Vec<(Matrices, Result<(), String>)> {
    [Matrices::Int8, Matrices::F16, Matrices::F16By8]
        .map(|matrices| (matrices, lacks(adapter, matrices)))
        .into()
}

pub(super) fn lacks(adapter: &wgpu::Adapter, matrices: Matrices) -> Result<(), String> {
    let needed = match matrices {
        Matrices::F16 | Matrices::F16By8 => {
            Features::SUBGROUP | Features::SHADER_F16 | Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        }
        Matrices::Int8 => {
            Features::SUBGROUP
                | Features::PASSTHROUGH_SHADERS
                | Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        }
    };
    let missing = needed - adapter.features();
    let names = [
        (
            "cooperative-matrix",
            Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
        ),
        ("shader-f16", Features::SHADER_F16),
        ("spirv-passthrough", Features::PASSTHROUGH_SHADERS),
        ("subgroups", Features::SUBGROUP),
    ];
    if let Some((name, _)) = names.iter().find(|(_, feature)| missing.contains(*feature)) {
        return Err(format!("the adapter has no {name}"));
    }
    let found = adapter.limits().max_compute_workgroup_storage_size;
    let needed = match matrices {
        Matrices::F16By8 => WORKGROUP_BYTES_BY_8,
        Matrices::F16 | Matrices::Int8 => WORKGROUP_BYTES,
    };
    if found < needed {
        return Err(format!(
            "the adapter has {found} bytes of workgroup memory, {needed} are needed"
        ));
    }
    // The kernels of few rows divide loads among so many invocations.
    let info = adapter.get_info();
    let sizes = [info.subgroup_min_size, info.subgroup_max_size];
    if matrices == Matrices::Int8 && sizes != [FewRows::SUBGROUP; 2] {
        return Err(format!(
            "the adapter has subgroups of {} to {}, {} are needed",
            sizes[0],
            sizes[1],
            FewRows::SUBGROUP
        ));
    }
    let lists_f16 = |side: u32| {
        let listed = adapter.cooperative_matrix_properties();
        let exact = listed.iter().any(|size| {
            [size.m_size, size.n_size, size.k_size] == [side; 3]
                && size.ab_type == CooperativeScalarType::F16
                && size.cr_type == CooperativeScalarType::F32
        });
        exact
            .then_some(())
            .ok_or_else(|| format!("{side}x{side}x{side} of f16 with sums in f32 is not listed"))
    };
    match matrices {
        Matrices::F16 => lists_f16(16),
        Matrices::F16By8 => lists_f16(8),
        Matrices::Int8 => lists_int8(adapter)
            .then_some(())
            .ok_or_else(|| "16x16x32 of INT8 with sums in i32 is not listed by Vulkan".to_owned()),
    }
}

/// Whether Vulkan lists the size of [`Matrices::Int8`], which wgpu leaves out of its list.
#[cfg(not(any(target_arch = "wasm32", target_vendor = "apple")))]
fn lists_int8(adapter: &wgpu::Adapter) -> bool {
    use ash::vk;
    // SAFETY: the handles are only used for one query while the adapter is alive, and nothing of them is kept or destroyed.
    let Some(vulkan) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return false;
    };
    let shared = vulkan.shared_instance();
    let extension =
        ash::khr::cooperative_matrix::Instance::new(shared.entry(), shared.raw_instance());
    // SAFETY: the adapter has the feature of cooperative matrices, so the driver has the extension; the call only reads.
    let listed = unsafe {
        extension.get_physical_device_cooperative_matrix_properties(vulkan.raw_physical_device())
    };
    listed.unwrap_or_default().iter().any(|size| {
        (size.m_size, size.n_size, size.k_size) == (16, 16, 32)
            && size.a_type == vk::ComponentTypeKHR::SINT8
            && size.b_type == vk::ComponentTypeKHR::SINT8
            && size.c_type == vk::ComponentTypeKHR::SINT32
            && size.result_type == vk::ComponentTypeKHR::SINT32
            && size.scope == vk::ScopeKHR::SUBGROUP
    })
}

#[cfg(any(target_arch = "wasm32", target_vendor = "apple"))]
fn lists_int8(_adapter: &wgpu::Adapter) -> bool {
    false
}

/// Runs the kernels on `matrices` and their twins on the same words.
pub(super) async fn self_test(
    executor: &mut GpuExecutor,
    matrices: Matrices,
) -> Result<(), String> {
    let (i8, i4) = match matrices {
        Matrices::F16By8 => (&gemm_i8_coop8::KERNEL, &gemm_i4_coop8::KERNEL),
        Matrices::F16 => (&gemm_i8_coop16::KERNEL, &gemm_i4_coop16::KERNEL),
        Matrices::Int8 => (&gemm_i8_coop16_int8::KERNEL, &gemm_i4_coop16_int8::KERNEL),
    };
    let mut plan = Plan::default();
    let mut tests = Vec::new();
    // Several workgroups with odd ends; then sums far beyond 2^24.
    let shapes = [([150, 2080, 140], false), ([17, 5152, 20], true)];
    for (shape, large) in shapes {
        tests.push(Test::new(&mut plan, i8, None, shape, large));
        tests.push(Test::new(&mut plan, i4, None, shape, large));
    }
    if matrices == Matrices::Int8 {
        let (i8, i4) = (
            &gemm_i8_coop16_int8_few::KERNEL,
            &gemm_i4_coop16_int8_few::KERNEL,
        );
        // What many outputs take, then what few do.
        let divisions = [(1, 4, 1), (2, 4, 2), (2, FewRows::MOST_SUBGROUPS, 1)];
        for (n, (row_frags, subgroups, loaded_parts)) in divisions.into_iter().enumerate() {
            let few = FewRows {
                row_frags,
                subgroups,
                loaded_parts,
            };
            let (shape, large) = shapes[n % shapes.len()];
            tests.push(Test::new(&mut plan, i8, Some(few), shape, large));
            tests.push(Test::new(&mut plan, i4, Some(few), shape, large));
        }
    }
    let result = run(executor, plan, &tests).await;
    result.map_err(|reason| format!("the self-test failed: {reason}"))
}

async fn run(executor: &mut GpuExecutor, plan: Plan, tests: &[Test]) -> Result<(), String> {
    let prepared = executor.prepare(plan).await;
    let prepared = prepared.map_err(|error| error.to_string())?;
    let compared = compare(executor, prepared, tests).await;
    executor.release(prepared);
    compared
}

async fn compare(
    executor: &mut GpuExecutor,
    prepared: usize,
    tests: &[Test],
) -> Result<(), String> {
    let text = |error: DeviceError| error.to_string();
    for test in tests {
        test.write(executor, prepared).map_err(text)?;
    }
    executor.run(prepared, None, 1, None).map_err(text)?;
    for test in tests {
        let (id, expected) = (test.buffers[4], test.expected());
        let pending = executor
            .read(Some(prepared), id, 0..expected.len() as u64)
            .map_err(text)?;
        let found = executor.wait(pending).await.map_err(text)?;
        let wrong = (0..found.len()).filter(|&i| found[i] != expected[i]);
        if let Some(i) = wrong.clone().next() {
            return Err(format!(
                "{} of {} results of {} are wrong: number {i} is {}, not {}",
                wrong.count(),
                found.len(),
                test.kernel.name,
                found[i] as i32,
                expected[i] as i32
            ));
        }
    }
    Ok(())
}

/// How far outputs of attention may be from the twin's: values are within 1, and weights are rounded to halves.
const ATTENTION_ERROR: f32 = 1.0 / 256.0;

/// Runs prefill attention on matrices of f16 and its twin on the same words.
pub(super) async fn attention_test(executor: &mut GpuExecutor) -> Result<(), String> {
    let (mut plan, mut state) = (Plan::default(), 1);
    let test = AttentionTest::new(&mut plan, &mut state);
    let prepared = executor.prepare(plan).await;
    let prepared = prepared.map_err(|error| error.to_string())?;
    let found = test.run(executor, prepared).await;
    executor.release(prepared);
    let found = found.map_err(|error| error.to_string())?;
    let expected = twin(
        test.kernel,
        bytemuck::bytes_of(&test.params),
        &[],
        &test.words,
    );
    let float = |word: &u32| f32::from_bits(*word);
    let pairs = found.iter().map(float).zip(expected.iter().map(float));
    // NaN is not close either.
    let is_close = |(found, expected): (f32, f32)| (found - expected).abs() <= ATTENTION_ERROR;
    match pairs.clone().position(|pair| !is_close(pair)) {
        None => Ok(()),
        Some(i) => Err(format!(
            "the self-test failed: number {i} of {} results of {} is {}, not {}",
            found.len(),
            test.kernel.name,
            float(&found[i]),
            float(&expected[i])
        )),
    }
}

/// A tile and some rows of a sequence in its second and third page, two heads over one.
struct AttentionTest {
    kernel: &'static Kernel,
    params: paged_attention::Params,
    /// row_info, block_table, qkv, k_pool, v_pool, tiles, y.
    buffers: Vec<BufferId>,
    words: Vec<Vec<u32>>,
}

impl AttentionTest {
    fn new(plan: &mut Plan, state: &mut u64) -> Self {
        const FIRST: u32 = 100;
        const ROWS: u32 = 40;
        const PAGES: u32 = 3;
        let params = paged_attention::Params {
            count: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 128,
            stride: 4 * 128,
            table_stride: PAGES,
            window: 0,
            scale: 0.25,
        };
        // Halves of either sign from 0.5 to 1, and floats within 1.
        let pool: Vec<u32> = (0..PAGES * 64 * 64)
            .map(|_| (random(state) & 0x83ff_83ff) | 0x3800_3800)
            .collect();
        let values = pool.iter().rev().copied().collect();
        let qkv = (0..ROWS * params.stride)
            .map(|_| (random(state) as i32 as f32 / 2_147_483_648.0).to_bits())
            .collect();
        let rows = FIRST..FIRST + ROWS;
        let words = vec![
            rows.flat_map(|position| [0, position]).collect(),
            (0..PAGES).rev().collect(),
            qkv,
            pool,
            values,
            vec![0, 32, 32, ROWS - 32],
            vec![0; (ROWS * params.heads * params.head_dim) as usize],
        ];
        let kernel = &attention_prefill_coop16::KERNEL;
        let buffers: Vec<BufferId> = words
            .iter()
            .map(|words| plan.scratch("self-test", words.len() as u64))
            .collect();
        let grid = Grid::Fixed(paged_attention::grid(&params));
        plan.dispatch("self-test", kernel, params, grid, &buffers);
        Self {
            kernel,
            params,
            buffers,
            words,
        }
    }

    async fn run(&self, executor: &mut GpuExecutor, plan: usize) -> Result<Vec<u32>, DeviceError> {
        for (id, words) in self.buffers.iter().zip(&self.words) {
            executor.write(Some(plan), *id, 0, words)?;
        }
        executor.run(plan, None, 1, None)?;
        let (id, words) = (self.buffers[6], self.words[6].len() as u64);
        let pending = executor.read(Some(plan), id, 0..words)?;
        executor.wait(pending).await
    }
}

/// Multiplicative congruence, of which the upper bits are fair.
fn random(state: &mut u64) -> u32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*state >> 32) as u32
}

/// What the twin of a kernel writes to its one output.
fn twin(kernel: &Kernel, params: &[u8], constants: &[Constant], words: &[Vec<u32>]) -> Vec<u32> {
    let written = kernel.bindings.iter().position(|a| *a == Access::ReadWrite);
    let mut y = written.map_or_else(Vec::new, |i| words[i].clone());
    let mut output = Some(&mut y);
    let buffers = words
        .iter()
        .zip(kernel.bindings)
        .map(|(words, access)| match access {
            Access::Read => Buffer::Read(words),
            Access::ReadWrite => Buffer::ReadWrite(output.take().expect("one binding is written")),
        })
        .collect();
    (kernel.run)(&mut Call::new(params, constants, buffers));
    y
}

/// A dispatch whose sums every executor must find.
pub(super) struct Test {
    kernel: &'static Kernel,
    constants: Vec<Constant>,
    params: Params,
    /// x_q, x_scale, w, aux, y.
    buffers: [BufferId; 5],
    words: [Vec<u32>; 5],
}

impl Test {
    /// `few`, of a kernel for few rows; `[rows, in_features, out_features]`; `large`: of values near the largest.
    pub(super) fn new(
        plan: &mut Plan,
        kernel: &'static Kernel,
        few: Option<FewRows>,
        [rows, in_features, out_features]: [u32; 3],
        large: bool,
    ) -> Self {
        let params = Params {
            rows,
            in_words: in_features / 4,
            out_features,
            first_out: 0,
            out_stride: out_features,
            x_scale_stride: 0,
            w_scale_stride: 0,
            has_bias: 0,
            accumulate: 0,
        };
        let mut state = 0x2545_f491_u64;
        let mut words = |count: u32| -> Vec<u32> {
            let next = |_| {
                let word = random(&mut state);
                if large {
                    0x7f7f_7f7f ^ (word & 0x0101_0101)
                } else {
                    word
                }
            };
            (0..count).map(next).collect()
        };
        let one = || vec![1f32.to_bits()];
        // Activations are never -128.
        let x = words(rows * in_features / 4)
            .into_iter()
            .map(|word| word | 0x0101_0101);
        let mut constants = vec![RAW];
        let groups = in_features / 32;
        let (w, multipliers) = if kernel.name.starts_with("gemm_i8") {
            (words(out_features * in_features / 4), Vec::new())
        } else {
            constants.push(("GROUP_SIZE", 32));
            let w = words(out_features * in_features / 8);
            (w, words(out_features * groups.div_ceil(8)))
        };
        let grid = match few {
            None => match kernel.matrices() {
                None => gemm_i8::grid(&params),
                Some(Matrices::F16By8) => integer::coop8_grid(&params),
                Some(Matrices::F16 | Matrices::Int8) => integer::coop_grid(&params),
            },
            Some(few) => {
                constants.extend(few.constants());
                few.grid(&params)
            }
        };
        let words = [
            x.collect(),
            one(),
            w,
            [one(), multipliers].concat(),
            vec![0; (rows * out_features) as usize],
        ];
        let buffers =
            std::array::from_fn(|i| plan.scratch(format!("self-test {i}"), words[i].len() as u64));
        plan.dispatches.push(Dispatch {
            label: format!("self-test of {}", kernel.name),
            kernel,
            params: bytemuck::bytes_of(&params).to_vec(),
            constants: constants.clone(),
            bindings: buffers.to_vec(),
            grid: Grid::Fixed(grid),
        });
        Self {
            kernel,
            constants,
            params,
            buffers,
            words,
        }
    }

    /// Gives the buffers of a prepared plan their words.
    pub(super) fn write(&self, executor: &mut GpuExecutor, plan: usize) -> Result<(), DeviceError> {
        for (id, words) in self.buffers.iter().zip(&self.words) {
            executor.write(Some(plan), *id, 0, words)?;
        }
        Ok(())
    }

    /// What the twin makes of the words.
    fn expected(&self) -> Vec<u32> {
        let params = bytemuck::bytes_of(&self.params);
        twin(self.kernel, params, &self.constants, &self.words)
    }
}
