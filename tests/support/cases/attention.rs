//! Cases of the attention kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::{FLOAT_ATTENTION, FLOAT_FEW_ULP, HALVES_ATTENTION, Tolerance};
use plateau_shaders::attention::{
    F16, F32, I8, KvFormat, TILE, attention_decode_f16, attention_decode_f16_flat,
    attention_decode_f32, attention_decode_f32_flat, attention_decode_i8, attention_decode_i8_flat,
    attention_merge, attention_merge_flat, attention_prefill_coop16, attention_prefill_coop16_flat,
    attention_prefill_f16, attention_prefill_f16_flat, attention_prefill_f32,
    attention_prefill_f32_flat, attention_prefill_i8, attention_prefill_i8_flat, kv_append,
    kv_append_f16, kv_append_f32, kv_append_i8, map_with_runs, paged_attention, rope,
    rope_attention, rope_attention_coop16_split, rope_attention_f16, rope_attention_f16_flat,
    rope_attention_f16_split, rope_attention_f16_split4,
};
use plateau_shaders::quantize::flatten_quantize::{self, extra};
use plateau_shaders::{FEW_REGISTERS, Kernel, PAGE_SIZE, div_ceil, pack};

pub fn cases() -> Vec<Case> {
    let mut cases = [rotations(), appends(), attention(), flat(), fused(), coop()].concat();
    let can = |case: &&Case| case.kernel.has_override(FEW_REGISTERS.0);
    let few: Vec<Case> = cases.iter().filter(can).cloned().collect();
    cases.extend(few.into_iter().map(Case::in_few_registers));
    cases
}

/// The kernels over pools of one type, and how such a pool is filled.
struct PoolType {
    append: &'static Kernel,
    append_grid: fn(&kv_append::Params) -> [u32; 3],
    decode: &'static Kernel,
    prefill: &'static Kernel,
    decode_flat: &'static Kernel,
    prefill_flat: &'static Kernel,
    tolerance: Tolerance,
    block_words: fn(usize) -> usize,
    write: fn(&mut [u32], usize, &[f32]),
}

const POOL_TYPES: [PoolType; 3] = [
    PoolType {
        append: &kv_append_f32::KERNEL,
        append_grid: kv_append_f32::grid,
        decode: &attention_decode_f32::KERNEL,
        prefill: &attention_prefill_f32::KERNEL,
        decode_flat: &attention_decode_f32_flat::KERNEL,
        prefill_flat: &attention_prefill_f32_flat::KERNEL,
        tolerance: FLOAT_ATTENTION,
        block_words: F32::block_words,
        write: F32::write,
    },
    PoolType {
        append: &kv_append_f16::KERNEL,
        append_grid: kv_append_f16::grid,
        decode: &attention_decode_f16::KERNEL,
        prefill: &attention_prefill_f16::KERNEL,
        decode_flat: &attention_decode_f16_flat::KERNEL,
        prefill_flat: &attention_prefill_f16_flat::KERNEL,
        tolerance: FLOAT_ATTENTION,
        block_words: F16::block_words,
        write: F16::write,
    },
    PoolType {
        append: &kv_append_i8::KERNEL,
        append_grid: kv_append_i8::grid,
        decode: &attention_decode_i8::KERNEL,
        prefill: &attention_prefill_i8::KERNEL,
        decode_flat: &attention_decode_i8_flat::KERNEL,
        prefill_flat: &attention_prefill_i8_flat::KERNEL,
        tolerance: FLOAT_ATTENTION,
        block_words: I8::block_words,
        write: I8::write,
    },
];

/// The kernels on matrices of f16.
const COOP: PoolType = PoolType {
    prefill: &attention_prefill_coop16::KERNEL,
    prefill_flat: &attention_prefill_coop16_flat::KERNEL,
    tolerance: HALVES_ATTENTION,
    ..POOL_TYPES[1]
};

fn rotations() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, num_heads, head_dim, values) in [
        (1, 1, 2, 0),
        (3, 5, 20, 40),
        (65, 3, 64, 64),
        (2, 9, 128, 256),
    ] {
        let mut rng = Rng::new(u64::from(head_dim) * 1000 + u64::from(rows));
        let stride = num_heads * head_dim + values;
        let params = rope::Params {
            rows,
            num_heads,
            head_dim,
            stride,
        };
        let positions = 70;
        let row_info: Vec<[u32; 2]> = (0..rows)
            .map(|row| [row % 3, rng.below(positions)])
            .collect();
        let rope_table: Vec<[f32; 2]> = (0..positions * head_dim / 2)
            .map(|i| {
                let (position, pair) =
                    (f64::from(i / (head_dim / 2)), f64::from(i % (head_dim / 2)));
                let angle = position * 10000f64.powf(-2.0 * pair / f64::from(head_dim));
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        let name = format!("rows={rows} heads={num_heads} head_dim={head_dim}");
        cases.push(
            Case::new(&rope::KERNEL, name, params, rope::grid(&params))
                .input(&row_info)
                .input(&rope_table)
                .output(
                    &rng.outliers(rows as usize, stride as usize, 2.0),
                    Check::Close(FLOAT_FEW_ULP),
                ),
        );
    }
    cases
}

/// Floats around every decision of the rounding to halves, then random bits of all exponents, then ordinary values.
fn awkward_floats(rng: &mut Rng, len: usize) -> Vec<f32> {
    let edges = [
        0x0000_0000, // zero
        0x0000_0001, // smallest subnormal float
        0x3300_0000, // 2^-25: ties to zero
        0x3300_0001, // just above: smallest half
        0x3380_0000, // 2^-24, smallest half
        0x33c0_0000, // 1.5 * 2^-24: a tie between two subnormal halves
        0x387f_dfff, // just below the tie to the smallest normal half
        0x387f_e000, // that tie
        0x387f_ffff, // just below 2^-14
        0x3880_0000, // 2^-14
        0x3f80_1000, // 1 + 2^-11: ties to even, down
        0x3f80_3000, // 1 + 3 * 2^-11: ties to even, up
        0x3f80_1001, // just above a tie
        0x3fff_f000, // a tie that carries into the exponent
        0x477f_e000, // 65504, largest half
        0x477f_efff, // just below the overflow
        0x477f_f000, // 65520: ties to infinity
        0x7f7f_ffff, // largest float
        0x7f80_0000, // infinity
        0x7fc0_0000, // quiet NaN
    ];
    let mut values = Vec::with_capacity(len);
    for &bits in edges.iter().cycle().take(len / 2) {
        let sign = (rng.next_u32() & 1) << 31;
        values.push(f32::from_bits(bits | sign));
    }
    while values.len() < len * 3 / 4 {
        let value = f32::from_bits(rng.next_u32());
        values.push(if value.is_nan() { 0.5 } else { value });
    }
    while values.len() < len {
        values.push(rng.unit() * 8.0);
    }
    values
}

fn appends() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, kv_heads, head_dim, extra) in [
        (1, 1, 2, 0),
        (5, 2, 20, 40),
        (66, 3, 64, 192),
        (3, 5, 80, 0),
        (4, 1, 256, 6),
    ] {
        let mut rng = Rng::new(u64::from(head_dim) * 1000 + u64::from(rows));
        // Sequence 0 has one row late in its second page; the others are a chunk of sequence 1 that crosses a page.
        let row_info: Vec<[u32; 2]> = (0..rows)
            .map(|row| if row == 0 { [0, 127] } else { [1, 59 + row] })
            .collect();
        let pages_per_sequence = div_ceil(60 + rows, PAGE_SIZE).max(2);
        let pages = 2 * pages_per_sequence;
        // Later pages first.
        let block_table: Vec<u32> = (0..pages).rev().collect();
        let k_offset = extra;
        let v_offset = k_offset + kv_heads * head_dim;
        let stride = v_offset + kv_heads * head_dim + 3;
        let params = kv_append::Params {
            rows,
            kv_heads,
            head_dim,
            stride,
            k_offset,
            v_offset,
            table_stride: pages_per_sequence,
        };
        let awkward = awkward_floats(&mut rng, (rows * stride) as usize);
        let heads = heads_to_quantize(&mut rng, (rows * stride) as usize, head_dim as usize);
        for pool in &POOL_TYPES {
            // Integers are of finite values.
            let finite = pool.append.name == kv_append_i8::KERNEL.name;
            let words = (pages * kv_heads) as usize * (pool.block_words)(head_dim as usize);
            cases.push(
                Case::new(
                    pool.append,
                    format!("rows={rows} kv_heads={kv_heads} head_dim={head_dim}"),
                    params,
                    (pool.append_grid)(&params),
                )
                .input(&row_info)
                .input(&block_table)
                .input(if finite { &heads } else { &awkward })
                .output(&vec![1u32; words], Check::Exact)
                .output(&vec![2u32; words], Check::Exact),
            );
        }
    }
    cases
}

/// Runs of `head_dim` floats of all magnitudes, with ties and with one value that stands alone, and runs of zeros.
fn heads_to_quantize(rng: &mut Rng, len: usize, head_dim: usize) -> Vec<f32> {
    let smallest = 1.0 / (1u128 << 100) as f32;
    let absmaxes = [
        1.0,
        127.0,
        0.1,
        0.0,
        smallest,
        smallest.next_down(),
        1e-20,
        1e30,
        3e38,
    ];
    let mut values = Vec::with_capacity(len + head_dim);
    let mut run = 0;
    while values.len() < len {
        let absmax = absmaxes[run % absmaxes.len()];
        let outlier = rng.below(head_dim as u32) as usize;
        values.extend((0..head_dim).map(|d| match (d == outlier, run % 2) {
            (true, _) => -absmax,
            // Whole and half steps.
            (_, 0) => absmax / 254.0 * (rng.below(509) as f32 - 254.0),
            _ => absmax * rng.unit(),
        }));
        run += 1;
    }
    values.truncate(len);
    values
}

/// Rows of some sequences over a cache; which kernel computes them is another matter.
#[derive(Clone, Copy)]
struct Problem {
    /// First position and number of rows of each sequence.
    sequences: &'static [(u32, u32)],
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    window: u32,
}

const DECODES: &[Problem] = &[
    Problem {
        sequences: &[(0, 1)],
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        window: 0,
    },
    Problem {
        sequences: &[(62, 1), (63, 1), (64, 1), (65, 1)],
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        window: 0,
    },
    Problem {
        sequences: &[(257, 1), (3, 1)],
        heads: 3,
        kv_heads: 3,
        head_dim: 128,
        window: 0,
    },
    Problem {
        sequences: &[(200, 1), (10, 1), (64, 1)],
        heads: 2,
        kv_heads: 1,
        head_dim: 80,
        window: 65,
    },
    Problem {
        sequences: &[(130, 1)],
        heads: 8,
        kv_heads: 1,
        head_dim: 34,
        window: 1,
    },
    Problem {
        sequences: &[(100, 1)],
        heads: 1,
        kv_heads: 1,
        head_dim: 256,
        window: 0,
    },
];

const PREFILLS: &[Problem] = &[
    Problem {
        sequences: &[(0, 9)],
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        window: 0,
    },
    // Tiles that start before a page and end after it; sequences of one row beside others.
    Problem {
        sequences: &[(59, 17), (130, 1), (0, 3)],
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        window: 0,
    },
    Problem {
        sequences: &[(0, 65), (63, 2)],
        heads: 3,
        kv_heads: 3,
        head_dim: 64,
        window: 0,
    },
    // Windows that open inside a tile, also at its first page, and end inside a page.
    Problem {
        sequences: &[(120, 70)],
        heads: 2,
        kv_heads: 1,
        head_dim: 80,
        window: 63,
    },
    Problem {
        sequences: &[(61, 11), (0, 70)],
        heads: 2,
        kv_heads: 2,
        head_dim: 34,
        window: 3,
    },
    Problem {
        sequences: &[(190, 5)],
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        window: 0,
    },
    Problem {
        sequences: &[(70, 6)],
        heads: 1,
        kv_heads: 1,
        head_dim: 256,
        window: 64,
    },
];

fn attention() -> Vec<Case> {
    let mut cases = Vec::new();
    for pool in &POOL_TYPES {
        cases.extend(DECODES.iter().map(|problem| problem.decode(pool)));
        for problem in DECODES.iter().chain(PREFILLS) {
            cases.extend(problem.fits_tiles().then(|| problem.prefill(pool, TILE)));
        }
        let wide = PREFILLS.iter().filter(|problem| !problem.fits_tiles());
        cases.extend(wide.map(|problem| problem.decode(pool)));
    }
    cases
}

/// Tiles of whole and of some pages, with both halves of a wide head, and heads that share keys.
const MATRIX_PREFILLS: &[Problem] = &[
    Problem {
        sequences: &[(0, 130), (40, 33)],
        heads: 4,
        kv_heads: 2,
        head_dim: 128,
        window: 0,
    },
    Problem {
        sequences: &[(150, 40)],
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        window: 70,
    },
];

/// Problems that the kernels on matrices take.
fn of_matrices() -> impl Iterator<Item = &'static Problem> {
    let all = DECODES.iter().chain(PREFILLS).chain(MATRIX_PREFILLS);
    all.filter(|problem| paged_attention::fits_matrices(problem.head_dim))
}

fn coop() -> Vec<Case> {
    let mut cases: Vec<Case> = of_matrices()
        .map(|problem| problem.prefill(&COOP, TILE))
        .collect();
    let flats = FLATS
        .iter()
        .filter(|flat| paged_attention::fits_matrices(flat.problem.head_dim));
    cases.extend(flats.map(|flat| flat.prefill(&COOP, TILE)));
    for problem in fused_on_matrices() {
        let table = quarter_turns(problem.positions(), problem.head_dim / 2);
        let inputs = problem.inputs(&COOP, Values::Random);
        cases.push(problem.split_on_matrices(&inputs, &table));
    }
    cases
}

/// Problems of decode steps that the kernels on matrices take.
fn fused_on_matrices() -> impl Iterator<Item = &'static Problem> {
    let fits = |problem: &&Problem| paged_attention::fits_matrices(problem.head_dim);
    FUSED.iter().filter(fits)
}

/// The same rows in other tiles by the kernels on matrices of f16: equal bit for bit on one device.
pub fn equal_pairs_of_matrices() -> Vec<(Case, Case)> {
    let mut pairs = Vec::new();
    for problem in of_matrices() {
        for longest in [1, SHORT_TILE] {
            pairs.push((
                problem.prefill(&COOP, longest),
                problem.prefill(&COOP, TILE),
            ));
        }
    }
    pairs
}

/// Rows of a tile as a prompt in smaller chunks would have them.
const SHORT_TILE: u32 = 3;

/// The same rows by decode and by prefill, and by prefill in other tiles: the outputs must be equal bit for bit on one device.
pub fn equal_pairs() -> Vec<(Case, Case)> {
    let mut pairs = Vec::new();
    for pool in &POOL_TYPES {
        let tiled = |problem: &&Problem| problem.fits_tiles();
        for problem in DECODES.iter().chain(PREFILLS).filter(tiled) {
            pairs.push((problem.decode(pool), problem.prefill(pool, TILE)));
        }
        for problem in PREFILLS.iter().filter(tiled) {
            pairs.push((
                problem.prefill(pool, SHORT_TILE),
                problem.prefill(pool, TILE),
            ));
        }
        for flat in FLATS.iter().filter(|flat| flat.problem.fits_tiles()) {
            pairs.push((flat.decode(pool), flat.prefill(pool, TILE)));
            pairs.push((flat.prefill(pool, SHORT_TILE), flat.prefill(pool, TILE)));
        }
    }
    // In few registers too.
    let prefills: Vec<Case> = pairs.iter().map(|(_, prefill)| prefill.clone()).collect();
    let few = |prefill: Case| (prefill.clone().in_few_registers(), prefill);
    pairs.extend(prefills.into_iter().map(few));
    pairs
}

/// What the keys, values and queries of a problem are.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// Rows are flat and peaked in turn: scores within 1, and within 30.
    Random,
    /// All scores are 0, and all values of a sequence's kv head are one vector of whole multiples of [`EXACT_UNIT`], which INT8
    /// holds exactly: so every kernel and every twin finds that vector.
    Exact,
}

/// A scale of INT8 that 127 steps divide exactly.
const EXACT_UNIT: f32 = 0.0625;

/// The buffers of a problem.
struct Inputs {
    row_info: Vec<[u32; 2]>,
    block_table: Vec<u32>,
    qkv: Vec<f32>,
    k_pool: Vec<u32>,
    v_pool: Vec<u32>,
}

impl Problem {
    fn name(&self) -> String {
        let Self {
            sequences,
            heads,
            kv_heads,
            head_dim,
            window,
        } = self;
        let rows: Vec<String> = sequences
            .iter()
            .map(|(first, count)| format!("{first}+{count}"))
            .collect();
        format!(
            "rows={} heads={heads}/{kv_heads} head_dim={head_dim} window={window}",
            rows.join(",")
        )
    }

    fn rows(&self) -> u32 {
        self.sequences.iter().map(|(_, count)| count).sum()
    }

    fn features(&self) -> u32 {
        self.heads * self.head_dim
    }

    fn fits_tiles(&self) -> bool {
        paged_attention::fits_tiles(self.head_dim)
    }

    fn pages_per_sequence(&self) -> u32 {
        self.sequences
            .iter()
            .map(|(first, count)| div_ceil(first + count, PAGE_SIZE))
            .max()
            .unwrap_or(0)
    }

    /// `count`: rows of a decode, tiles of a prefill.
    fn params(&self, count: u32) -> paged_attention::Params {
        paged_attention::Params {
            count,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            stride: (self.heads + 2 * self.kv_heads) * self.head_dim,
            table_stride: self.pages_per_sequence(),
            window: self.window,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        }
    }

    /// What no row may read is NaN, or a scale that is NaN.
    fn inputs(&self, pool: &PoolType, values: Values) -> Inputs {
        let params = self.params(self.rows());
        let (kv_heads, head_dim) = (self.kv_heads as usize, self.head_dim as usize);
        let mut rng = Rng::new(u64::from(self.head_dim) * 1000 + u64::from(self.rows()));
        let row_info: Vec<[u32; 2]> = (0u32..)
            .zip(self.sequences)
            .flat_map(|(sequence, &(first, count))| {
                (first..first + count).map(move |position| [sequence, position])
            })
            .collect();
        // Every second page of the pool, later ones first.
        let table_pages = self.sequences.len() as u32 * params.table_stride;
        let block_table: Vec<u32> = (0..table_pages)
            .map(|i| 2 * (table_pages - 1 - i))
            .collect();
        let mut qkv = rng.floats((self.rows() * params.stride) as usize, 1.0);
        for row in qkv
            .chunks_exact_mut(params.stride as usize)
            .skip(1)
            .step_by(2)
        {
            let queries = &mut row[..self.features() as usize];
            queries.iter_mut().for_each(|q| *q *= 20.0);
        }
        if values == Values::Exact {
            qkv.fill(0.0);
        }
        let block_words = (pool.block_words)(head_dim);
        let words = 2 * table_pages as usize * kv_heads * block_words;
        let (mut k_pool, mut v_pool) = (vec![u32::MAX; words], vec![u32::MAX; words]);
        for (sequence, &(first, count)) in self.sequences.iter().enumerate() {
            let exact: Vec<Vec<f32>> = (0..kv_heads).map(|_| self.exact_value(&mut rng)).collect();
            for key in 0..first + count {
                let page = block_table
                    [sequence * params.table_stride as usize + (key / PAGE_SIZE) as usize];
                for (kv_head, exact) in exact.iter().enumerate() {
                    let block = (page as usize * kv_heads + kv_head) * block_words;
                    let (k, mut v) = (rng.floats(head_dim, 1.0), rng.floats(head_dim, 2.0));
                    if values == Values::Exact {
                        v.copy_from_slice(exact);
                    }
                    let key = (key % PAGE_SIZE) as usize;
                    (pool.write)(&mut k_pool[block..][..block_words], key, &k);
                    (pool.write)(&mut v_pool[block..][..block_words], key, &v);
                }
            }
        }
        Inputs {
            row_info,
            block_table,
            qkv,
            k_pool,
            v_pool,
        }
    }

    /// See [`Values::Exact`]. Quantized with a quarter of [`EXACT_UNIT`], it has ties only where each row sees one key: a sum of
    /// equal weights over itself is otherwise not quite 1 everywhere.
    fn exact_value(&self, rng: &mut Rng) -> Vec<f32> {
        let mut steps = rng.integers(self.head_dim as usize, 127);
        if self.window != 1 {
            let ties = steps.iter_mut().filter(|step| step.rem_euclid(4) == 2);
            ties.for_each(|step| *step += 1);
        }
        steps[rng.below(self.head_dim) as usize] = 127;
        steps.iter().map(|&step| step as f32 * EXACT_UNIT).collect()
    }

    /// Tiles of at most `longest` rows, then an empty one.
    fn tiles(&self, row_info: &[[u32; 2]], longest: u32) -> Vec<[u32; 2]> {
        let mut tiles = Vec::new();
        for [first_row, count] in plateau_shaders::attention::tiles(row_info) {
            let starts = (first_row..first_row + count).step_by(longest as usize);
            tiles.extend(starts.map(|start| [start, longest.min(first_row + count - start)]));
        }
        tiles.push([0, 0]);
        tiles
    }

    fn y(&self) -> Vec<f32> {
        vec![0f32; (self.rows() * self.features()) as usize]
    }

    fn decode(&self, pool: &PoolType) -> Case {
        let params = self.params(self.rows());
        let grid = paged_attention::grid(&params);
        Case::new(pool.decode, self.name(), params, grid)
            .attends(&self.inputs(pool, Values::Random))
            .output(&self.y(), Check::Close(FLOAT_ATTENTION))
    }

    fn prefill(&self, pool: &PoolType, longest: u32) -> Case {
        let inputs = self.inputs(pool, Values::Random);
        let tiles = self.tiles(&inputs.row_info, longest);
        let params = self.params(tiles.len() as u32);
        let grid = paged_attention::grid(&params);
        Case::new(pool.prefill, self.name(), params, grid)
            .attends(&inputs)
            .input(&tiles)
            .output(&self.y(), Check::Close(pool.tolerance))
    }
}

impl Case {
    /// The bindings that every attention kernel begins with.
    fn attends(self, inputs: &Inputs) -> Self {
        self.input(&inputs.row_info)
            .input(&inputs.block_table)
            .input(&inputs.qkv)
            .input(&inputs.k_pool)
            .input(&inputs.v_pool)
    }
}

/// Which channels of attention's output have extra parts.
#[derive(Clone, Copy, Debug)]
enum Parts {
    One,
    /// One channel in five has two to five parts. The last head's run is not filled up.
    Some,
    /// All channels of every second head have three, those of the others one.
    AllOfSomeHeads,
    /// As `Some`, and some channels repeat part 0, or part 1.
    Repeated,
}

/// Attention to flat integers.
#[derive(Clone, Copy)]
pub struct Flat {
    problem: Problem,
    values: Values,
    parts: Parts,
    q_max: u32,
}

pub const FLATS: &[Flat] = &[
    Flat {
        problem: DECODES[0],
        values: Values::Exact,
        parts: Parts::One,
        q_max: 7,
    },
    Flat {
        problem: DECODES[1],
        values: Values::Random,
        parts: Parts::Some,
        q_max: 7,
    },
    Flat {
        problem: DECODES[1],
        values: Values::Exact,
        parts: Parts::AllOfSomeHeads,
        q_max: 127,
    },
    Flat {
        problem: DECODES[2],
        values: Values::Random,
        parts: Parts::AllOfSomeHeads,
        q_max: 127,
    },
    Flat {
        problem: DECODES[5],
        values: Values::Exact,
        parts: Parts::Repeated,
        q_max: 7,
    },
    // One key for each row: ties.
    Flat {
        problem: Problem {
            sequences: &[(130, 1), (60, 9)],
            heads: 8,
            kv_heads: 1,
            head_dim: 36,
            window: 1,
        },
        values: Values::Exact,
        parts: Parts::Repeated,
        q_max: 7,
    },
    Flat {
        problem: PREFILLS[1],
        values: Values::Random,
        parts: Parts::Repeated,
        q_max: 127,
    },
    Flat {
        problem: PREFILLS[3],
        values: Values::Random,
        parts: Parts::Some,
        q_max: 7,
    },
    Flat {
        problem: PREFILLS[3],
        values: Values::Exact,
        parts: Parts::AllOfSomeHeads,
        q_max: 7,
    },
    Flat {
        problem: PREFILLS[6],
        values: Values::Exact,
        parts: Parts::Some,
        q_max: 127,
    },
];

fn flat() -> Vec<Case> {
    let mut cases = Vec::new();
    for pool in &POOL_TYPES {
        for flat in FLATS {
            cases.push(flat.decode(pool));
            cases.extend(flat.problem.fits_tiles().then(|| flat.prefill(pool, TILE)));
        }
    }
    cases
}

impl Flat {
    fn name(&self) -> String {
        let (parts, q_max) = (self.parts, self.q_max);
        format!("{} parts={parts:?} q_max={q_max}", self.problem.name())
    }

    /// The parts of each channel, then the extra channels, each head's in whole words.
    pub fn map(&self) -> Vec<u32> {
        const ZERO: u32 = extra(0, 255);
        let Problem {
            heads, head_dim, ..
        } = self.problem;
        let parts_of = |j: u32| match self.parts {
            Parts::One => 1,
            Parts::AllOfSomeHeads => [3, 1][(j / head_dim % 2) as usize],
            Parts::Some | Parts::Repeated if j % 5 == 3 => 2 + j / 5 % 4,
            Parts::Some | Parts::Repeated => 1,
        };
        let mut map: Vec<u32> = (0..heads * head_dim).map(parts_of).collect();
        for head in 0..heads {
            for j in head * head_dim..(head + 1) * head_dim {
                let parts = parts_of(j);
                map.extend((1..parts).map(|part| extra(j, part)));
                if matches!(self.parts, Parts::Repeated) && (j % 7 == 0 || parts > 3) {
                    map.push(extra(j, u32::from(parts > 3)));
                }
            }
            if head + 1 < heads || !matches!(self.parts, Parts::Some) {
                map.resize(map.len().next_multiple_of(4), ZERO);
            }
        }
        map
    }

    /// Of random values, some channels reach beyond their parts.
    fn quantize(&self) -> flatten_quantize::Params {
        flatten_quantize::Params {
            rows: self.problem.rows(),
            features: self.problem.features(),
            flat_features: self.map().len() as u32,
            q_max: self.q_max,
            inv_scale: match (self.values, self.q_max) {
                (Values::Random, q_max) => q_max as f32 / 0.25,
                (Values::Exact, 7) => 0.25 / EXACT_UNIT,
                (Values::Exact, _) => 4.0 / EXACT_UNIT,
            },
        }
    }

    fn params(&self, count: u32) -> paged_attention::FlatParams {
        let quantize = self.quantize();
        paged_attention::FlatParams {
            attention: self.problem.params(count),
            flat_features: quantize.flat_features,
            q_max: quantize.q_max,
            inv_scale: quantize.inv_scale,
        }
    }

    fn case(&self, kernel: &'static Kernel, count: u32, inputs: &Inputs) -> Case {
        let params = self.params(count);
        let grid = paged_attention::grid(&params.attention);
        Case::new(kernel, self.name(), params, grid).attends(inputs)
    }

    /// Map and output.
    fn with_integers(&self, case: Case) -> Case {
        let (heads, head_dim) = (self.problem.heads, self.problem.head_dim);
        let map = map_with_runs(&self.map(), heads, head_dim).expect("whole words of each head");
        let check = match self.values {
            Values::Random => Check::OneStep,
            Values::Exact => Check::Exact,
        };
        case.input(&map).output(&self.x_q(), check)
    }

    /// Before the dispatch four -128 in each word, more than a step from all that may be written.
    fn x_q(&self) -> Vec<u32> {
        let words = pack::i8_row_words(self.map().len());
        vec![0x8080_8080; self.problem.rows() as usize * words]
    }

    fn decode(&self, pool: &PoolType) -> Case {
        let inputs = self.problem.inputs(pool, self.values);
        self.with_integers(self.case(pool.decode_flat, self.problem.rows(), &inputs))
    }

    fn prefill(&self, pool: &PoolType, longest: u32) -> Case {
        let inputs = self.problem.inputs(pool, self.values);
        let tiles = self.problem.tiles(&inputs.row_info, longest);
        let case = self.case(pool.prefill_flat, tiles.len() as u32, &inputs);
        self.with_integers(case.input(&tiles))
    }

    /// The same in two dispatches: attention, and what is to quantize its output `y`.
    pub fn in_two(&self) -> impl Iterator<Item = FlatInTwo> {
        POOL_TYPES.iter().map(|pool| {
            let inputs = self.problem.inputs(pool, self.values);
            let params = self.problem.params(self.problem.rows());
            let grid = paged_attention::grid(&params);
            FlatInTwo {
                fused: self.decode(pool),
                attention: Case::new(pool.decode, self.name(), params, grid)
                    .attends(&inputs)
                    .output(&self.problem.y(), Check::Close(FLOAT_ATTENTION)),
                flat: *self,
            }
        })
    }

    /// The dispatch that quantizes `y`.
    pub fn flatten_quantize(&self, y: &[u32]) -> Case {
        let params = self.quantize();
        let grid = flatten_quantize::grid(&params);
        Case::new(&flatten_quantize::KERNEL, self.name(), params, grid)
            .input(y)
            .input(&self.map())
            .output(&self.x_q(), Check::Exact)
    }

    /// The integers of each row and channel, before they were flattened: the sums of the parts. `Err` where a flat channel is
    /// not the part of that sum that the map asks for.
    pub fn sums(&self, x_q: &[u32]) -> Result<Vec<i32>, String> {
        let (map, features) = (self.map(), self.problem.features() as usize);
        let q_max = self.q_max as i32;
        let mut sums = Vec::new();
        for row in x_q.chunks_exact(pack::i8_row_words(map.len())) {
            let mut integers = vec![0i8; 4 * row.len()];
            pack::unpack_i8(row, &mut integers);
            let extras = map[features..]
                .iter()
                .map(|entry| ((entry & 0x00ff_ffff) as usize, (entry >> 24) as i32));
            let flat: Vec<(usize, i32)> = (0..features).map(|j| (j, 0)).chain(extras).collect();
            let of_row = |channel: usize| {
                let mut parts: Vec<(i32, i8)> = (0..flat.len())
                    .filter(|&c| flat[c].0 == channel)
                    .map(|c| (flat[c].1, integers[c]))
                    .collect();
                parts.sort_unstable();
                parts.dedup();
                parts
                    .iter()
                    .map(|&(_, value)| i32::from(value))
                    .sum::<i32>()
            };
            let of_channels: Vec<i32> = (0..features).map(of_row).collect();
            for (c, &(source, part)) in flat.iter().enumerate() {
                let q = of_channels[source];
                let expected = q.signum() * (q.abs() - part * q_max).clamp(0, q_max);
                if i32::from(integers[c]) != expected {
                    let found = integers[c];
                    return Err(format!(
                        "flat channel {c}: found {found}, part {part} of {q} is {expected}"
                    ));
                }
            }
            if integers[flat.len()..].iter().any(|&padding| padding != 0) {
                return Err("the padding is not zero".to_owned());
            }
            sums.extend(of_channels);
        }
        Ok(sums)
    }
}

/// Attention to flat integers by one kernel, and the first of the two that do the same.
pub struct FlatInTwo {
    pub fused: Case,
    pub attention: Case,
    pub flat: Flat,
}

/// Problems of the rope_attention_* kernels: rows of one sequence each, heads of whole vec4s of halves.
const FUSED: &[Problem] = &[
    DECODES[0],
    DECODES[2],
    DECODES[3],
    // Every place of the new key that matters, in one page and in two.
    Problem {
        sequences: &[(0, 1), (1, 1), (63, 1), (64, 1), (65, 1), (127, 1)],
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        window: 0,
    },
    // More than one round of four pages, whole and not; a window that opens inside a page.
    Problem {
        sequences: &[(255, 1), (256, 1), (700, 1)],
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        window: 0,
    },
    Problem {
        sequences: &[(330, 1), (127, 1), (128, 1)],
        heads: 4,
        kv_heads: 2,
        head_dim: 128,
        window: 0,
    },
    Problem {
        sequences: &[(600, 1), (3, 1)],
        heads: 3,
        kv_heads: 3,
        head_dim: 32,
        window: 300,
    },
    // Groups of seven heads, which four at once do not divide, with and without a window; a group of four.
    Problem {
        sequences: &[(130, 1), (5, 1)],
        heads: 7,
        kv_heads: 1,
        head_dim: 40,
        window: 0,
    },
    Problem {
        sequences: &[(200, 1), (64, 1)],
        heads: 14,
        kv_heads: 2,
        head_dim: 16,
        window: 70,
    },
    Problem {
        sequences: &[(191, 1), (192, 1)],
        heads: 4,
        kv_heads: 1,
        head_dim: 104,
        window: 1,
    },
    // More slots than a workgroup of the merge has invocations.
    Problem {
        sequences: &[(64 * 131 + 5, 1)],
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        window: 0,
    },
];

/// Turns by some quarters: they change no bit but signs, so what is rounded to halves is the twin's.
fn quarter_turns(positions: u32, half: u32) -> Vec<[f32; 2]> {
    let turns = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
    (0..positions * half)
        .map(|i| turns[((i / half + i % half) % 4) as usize])
        .collect()
}

/// Any angles.
fn turns(positions: u32, half: u32) -> Vec<[f32; 2]> {
    (0..positions * half)
        .map(|i| f64::from(i / half) * 100f64.powf(-f64::from(i % half) / f64::from(half)))
        .map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect()
}

fn in_wide_workgroups(whole: &Case) -> Case {
    let mut wide = whole.clone();
    wide.name.push_str(" wide");
    wide.constants.push(rope_attention::WIDE_TEAMS);
    wide
}

fn fused() -> Vec<Case> {
    let mut cases = Vec::new();
    for problem in FUSED {
        let table = quarter_turns(problem.positions(), problem.head_dim / 2);
        let inputs = problem.inputs(&POOL_TYPES[1], Values::Random);
        let flat = problem.as_flat();
        let whole = problem.rope_attention(&inputs, &table);
        let whole_flat = flat.rope_attention(&inputs, &table);
        cases.extend([in_wide_workgroups(&whole), in_wide_workgroups(&whole_flat)]);
        cases.extend([whole, whole_flat]);
        cases.push(problem.split(false, &inputs, &table));
        cases.push(problem.split(true, &inputs, &table));
        let partials = problem.random_partials();
        cases.push(problem.merge(&inputs.row_info, &partials));
        cases.push(flat.merge(&inputs.row_info, &partials));
    }
    cases
}

impl Problem {
    fn positions(&self) -> u32 {
        self.pages_per_sequence() * PAGE_SIZE
    }

    fn as_flat(&self) -> Flat {
        Flat {
            problem: *self,
            values: Values::Random,
            parts: Parts::Repeated,
            q_max: 127,
        }
    }

    /// Pages that the partials have room for.
    fn slots(&self) -> u32 {
        self.pages_per_sequence() + 3
    }

    /// `case` with the constants of the rope_attention_* kernels.
    fn sized(&self, case: Case) -> Case {
        let constants = rope_attention::constants(&self.params(self.rows()));
        let set = |case: Case, (name, value)| case.constant(name, value);
        constants.into_iter().fold(case, set)
    }

    fn rotated(&self, case: Case, inputs: &Inputs, table: &[[f32; 2]]) -> Case {
        case.input(&inputs.row_info)
            .input(&inputs.block_table)
            .input(&inputs.qkv)
            .input(table)
            .output(&inputs.k_pool, Check::Exact)
            .output(&inputs.v_pool, Check::Exact)
    }

    fn rope_attention(&self, inputs: &Inputs, table: &[[f32; 2]]) -> Case {
        let params = self.params(self.rows());
        let grid = paged_attention::grid(&params);
        let case = Case::new(&rope_attention_f16::KERNEL, self.name(), params, grid);
        self.rotated(self.sized(case), inputs, table)
            .output(&self.y(), Check::Close(FLOAT_ATTENTION))
    }

    /// By a workgroup for each head, or for four.
    fn split(&self, four: bool, inputs: &Inputs, table: &[[f32; 2]]) -> Case {
        let params = self.params(self.rows());
        let (kernel, grid) = if four {
            let grid = rope_attention_f16_split4::grid(&params, self.slots());
            (&rope_attention_f16_split4::KERNEL, grid)
        } else {
            let grid = rope_attention_f16_split::grid(&params, self.slots());
            (&rope_attention_f16_split::KERNEL, grid)
        };
        let case = Case::new(kernel, self.name(), params, grid);
        self.rotated(self.sized(case), inputs, table).output(
            &vec![0f32; self.partial_words()],
            Check::Close(FLOAT_ATTENTION),
        )
    }

    fn split_on_matrices(&self, inputs: &Inputs, table: &[[f32; 2]]) -> Case {
        let params = self.params(self.rows());
        let grid = rope_attention_coop16_split::grid(&params, self.slots());
        let kernel = &rope_attention_coop16_split::KERNEL;
        let case = Case::new(kernel, self.name(), params, grid);
        self.rotated(case, inputs, table).output(
            &vec![0f32; self.partial_words()],
            Check::Close(HALVES_ATTENTION),
        )
    }

    fn partial_words(&self) -> usize {
        let (heads, head_dim) = (self.heads, self.head_dim);
        rope_attention::partial_words(self.rows(), heads, head_dim, self.slots()) as usize
    }

    /// Maxima that rise and fall, sums of 1 to 64 weights; of the slots that a row has not, NaN.
    fn random_partials(&self) -> Vec<f32> {
        let mut rng = Rng::new(u64::from(self.head_dim) * 7 + u64::from(self.rows()));
        let of_slot = self.head_dim as usize + 2;
        let mut partials = rng.floats(self.partial_words(), 8.0);
        for slot in partials.chunks_exact_mut(of_slot) {
            slot[1] = 1.0 + rng.unit().abs() * 63.0;
        }
        let of_row = self.slots() as usize * of_slot * self.heads as usize;
        for (row, partials) in self.sequences.iter().zip(partials.chunks_exact_mut(of_row)) {
            let position = row.0;
            let first = match self.window {
                0 => 0,
                window => (position + 1).saturating_sub(window),
            };
            let used = (position / PAGE_SIZE - first / PAGE_SIZE + 1) as usize;
            for head in partials.chunks_exact_mut(self.slots() as usize * of_slot) {
                head[used * of_slot..].fill(f32::NAN);
            }
        }
        partials
    }

    fn merge(&self, row_info: &[[u32; 2]], partials: &[f32]) -> Case {
        let params = self.params(self.rows());
        let grid = paged_attention::grid(&params);
        let case = Case::new(&attention_merge::KERNEL, self.name(), params, grid);
        self.sized(case)
            .input(row_info)
            .input(partials)
            .output(&self.y(), Check::Close(FLOAT_ATTENTION))
    }
}

impl Flat {
    fn rope_attention(&self, inputs: &Inputs, table: &[[f32; 2]]) -> Case {
        let params = self.params(self.problem.rows());
        let grid = paged_attention::grid(&params.attention);
        let case = Case::new(&rope_attention_f16_flat::KERNEL, self.name(), params, grid);
        let case = self.problem.sized(case);
        self.with_integers(self.problem.rotated(case, inputs, table))
    }

    fn merge(&self, row_info: &[[u32; 2]], partials: &[f32]) -> Case {
        let params = self.params(self.problem.rows());
        let grid = paged_attention::grid(&params.attention);
        let case = Case::new(&attention_merge_flat::KERNEL, self.name(), params, grid);
        let case = (self.problem.sized(case)).input(row_info).input(partials);
        self.with_integers(case)
    }
}

/// One attention in several ways, each the dispatches that follow each other; the last output of the last is attention's.
pub struct Ways {
    pub name: String,
    /// rope, kv_append and attention_decode.
    pub apart: [Case; 3],
    /// By few teams and by many; none where it is always split.
    pub wholes: Vec<Case>,
    /// rope_attention_*_split, each way of them, and attention_merge.
    pub splits: Vec<Case>,
    pub merge: Case,
}

/// Attention of rotated heads over pools that the dispatch itself appends to, for equality of bits on one device.
pub fn ways() -> Vec<Ways> {
    let mut all: Vec<Ways> = FUSED.iter().map(|problem| problem.ways(None)).collect();
    for ways in &mut all {
        let few = |cases: &[Case]| -> Vec<Case> {
            cases.iter().cloned().map(Case::in_few_registers).collect()
        };
        ways.wholes.extend(few(&ways.wholes));
        ways.splits.extend(few(&ways.splits));
    }
    all
}

/// The same on matrices of f16.
pub fn ways_on_matrices() -> Vec<Ways> {
    let ways = |problem: &Problem| problem.ways(Some(&COOP));
    fused_on_matrices().map(ways).collect()
}

impl Problem {
    fn ways(&self, matrices: Option<&PoolType>) -> Ways {
        let (problem, pool) = (self, &POOL_TYPES[1]);
        let table = turns(problem.positions(), problem.head_dim / 2);
        let inputs = problem.inputs(pool, Values::Random);
        let params = problem.params(problem.rows());
        let rotation = rope::Params {
            rows: params.count,
            num_heads: params.heads + params.kv_heads,
            head_dim: params.head_dim,
            stride: params.stride,
        };
        let append = kv_append::Params {
            rows: params.count,
            kv_heads: params.kv_heads,
            head_dim: params.head_dim,
            stride: params.stride,
            k_offset: params.heads * params.head_dim,
            v_offset: (params.heads + params.kv_heads) * params.head_dim,
            table_stride: params.table_stride,
        };
        Ways {
            name: problem.name(),
            apart: [
                Case::new(
                    &rope::KERNEL,
                    problem.name(),
                    rotation,
                    rope::grid(&rotation),
                )
                .input(&inputs.row_info)
                .input(&table)
                .output(&inputs.qkv, Check::Close(FLOAT_FEW_ULP)),
                Case::new(
                    pool.append,
                    problem.name(),
                    append,
                    (pool.append_grid)(&append),
                )
                .input(&inputs.row_info)
                .input(&inputs.block_table)
                .input(&inputs.qkv)
                .output(&inputs.k_pool, Check::Exact)
                .output(&inputs.v_pool, Check::Exact),
                match matrices {
                    Some(pool) => problem.prefill(pool, TILE),
                    None => problem.decode(pool),
                },
            ],
            wholes: match matrices {
                Some(_) => Vec::new(),
                None => {
                    let whole = problem.rope_attention(&inputs, &table);
                    vec![in_wide_workgroups(&whole), whole]
                }
            },
            splits: match matrices {
                Some(_) => vec![problem.split_on_matrices(&inputs, &table)],
                None => [false, true]
                    .map(|four| problem.split(four, &inputs, &table))
                    .into(),
            },
            merge: problem.merge(&inputs.row_info, &vec![0f32; problem.partial_words()]),
        }
    }
}
