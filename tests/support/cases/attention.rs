//! Cases of the attention kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::{FLOAT_ATTENTION, FLOAT_FEW_ULP};
use half::f16;
use plateau_shaders::attention::{
    TILE, attention_decode_f16, attention_decode_f32, attention_prefill_f16, attention_prefill_f32,
    kv_append_f16, kv_append_f32, rope,
};
use plateau_shaders::{PAGE_SIZE, div_ceil};

pub fn cases() -> Vec<Case> {
    [rotations(), appends(), attention()].concat()
}

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
        let params = kv_append_f32::Params {
            rows,
            kv_heads,
            head_dim,
            stride,
            k_offset,
            v_offset,
            table_stride: pages_per_sequence,
        };
        let qkv = awkward_floats(&mut rng, (rows * stride) as usize);
        let elements = (pages * kv_heads * PAGE_SIZE * head_dim) as usize;
        let name = format!("rows={rows} kv_heads={kv_heads} head_dim={head_dim}");
        cases.push(
            Case::new(
                &kv_append_f32::KERNEL,
                name.clone(),
                params,
                kv_append_f32::grid(&params),
            )
            .input(&row_info)
            .input(&block_table)
            .input(&qkv)
            .output(&vec![1f32; elements], Check::Exact)
            .output(&vec![2f32; elements], Check::Exact),
        );
        cases.push(
            Case::new(
                &kv_append_f16::KERNEL,
                name,
                params,
                kv_append_f16::grid(&params),
            )
            .input(&row_info)
            .input(&block_table)
            .input(&qkv)
            .output(&vec![f16::ONE; elements], Check::Exact)
            .output(&vec![f16::NEG_ONE; elements], Check::Exact),
        );
    }
    cases
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
    for problem in DECODES {
        cases.extend([problem.decode_f32(), problem.decode_f16()]);
    }
    for problem in DECODES.iter().chain(PREFILLS) {
        cases.extend([problem.prefill_f32(TILE), problem.prefill_f16(TILE)]);
    }
    cases
}

/// The same rows by decode and by prefill, and by prefill in other tiles: the outputs must be equal bit for bit on one device.
pub fn equal_pairs() -> Vec<(Case, Case)> {
    /// Rows of a tile as a prompt in smaller chunks would have them.
    const SHORT_TILE: u32 = 3;
    let mut pairs = Vec::new();
    for problem in DECODES.iter().chain(PREFILLS) {
        pairs.push((problem.decode_f32(), problem.prefill_f32(TILE)));
        pairs.push((problem.decode_f16(), problem.prefill_f16(TILE)));
    }
    for problem in PREFILLS {
        pairs.push((problem.prefill_f32(SHORT_TILE), problem.prefill_f32(TILE)));
        pairs.push((problem.prefill_f16(SHORT_TILE), problem.prefill_f16(TILE)));
    }
    pairs
}

/// The buffers of a problem, pools in f32.
struct Inputs {
    row_info: Vec<[u32; 2]>,
    block_table: Vec<u32>,
    qkv: Vec<f32>,
    k_pool: Vec<f32>,
    v_pool: Vec<f32>,
    y: Vec<f32>,
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

    fn pages_per_sequence(&self) -> u32 {
        self.sequences
            .iter()
            .map(|(first, count)| div_ceil(first + count, PAGE_SIZE))
            .max()
            .unwrap_or(0)
    }

    fn params(&self) -> attention_decode_f32::Params {
        attention_decode_f32::Params {
            rows: self.rows(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            stride: (self.heads + 2 * self.kv_heads) * self.head_dim,
            table_stride: self.pages_per_sequence(),
            window: self.window,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        }
    }

    /// Rows are flat and peaked in turn: scores within 1, and within 30. What no row may read is NaN.
    fn inputs(&self) -> Inputs {
        let params = self.params();
        let mut rng = Rng::new(u64::from(self.head_dim) * 1000 + u64::from(params.rows));
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
        let mut qkv = rng.floats((params.rows * params.stride) as usize, 1.0);
        for row in qkv
            .chunks_exact_mut(params.stride as usize)
            .skip(1)
            .step_by(2)
        {
            row.iter_mut().for_each(|q| *q *= 20.0);
        }
        let elements = (2 * table_pages * self.kv_heads * PAGE_SIZE * self.head_dim) as usize;
        let (mut k_pool, mut v_pool) = (vec![f32::NAN; elements], vec![f32::NAN; elements]);
        for (sequence, &(first, count)) in self.sequences.iter().enumerate() {
            for key in 0..first + count {
                let page = block_table
                    [sequence * params.table_stride as usize + (key / PAGE_SIZE) as usize];
                for kv_head in 0..self.kv_heads {
                    let index = ((page * self.kv_heads + kv_head) * PAGE_SIZE + key % PAGE_SIZE)
                        * self.head_dim;
                    for d in (index..).take(self.head_dim as usize) {
                        k_pool[d as usize] = rng.unit();
                        v_pool[d as usize] = 2.0 * rng.unit();
                    }
                }
            }
        }
        let y = vec![0f32; (params.rows * self.heads * self.head_dim) as usize];
        Inputs {
            row_info,
            block_table,
            qkv,
            k_pool,
            v_pool,
            y,
        }
    }

    fn decode_f32(&self) -> Case {
        let (params, inputs) = (self.params(), self.inputs());
        Case::new(
            &attention_decode_f32::KERNEL,
            self.name(),
            params,
            attention_decode_f32::grid(&params),
        )
        .input(&inputs.row_info)
        .input(&inputs.block_table)
        .input(&inputs.qkv)
        .input(&inputs.k_pool)
        .input(&inputs.v_pool)
        .output(&inputs.y, Check::Close(FLOAT_ATTENTION))
    }

    fn decode_f16(&self) -> Case {
        let (params, inputs) = (self.params(), self.inputs());
        Case::new(
            &attention_decode_f16::KERNEL,
            self.name(),
            params,
            attention_decode_f16::grid(&params),
        )
        .input(&inputs.row_info)
        .input(&inputs.block_table)
        .input(&inputs.qkv)
        .input(&halves(&inputs.k_pool))
        .input(&halves(&inputs.v_pool))
        .output(&inputs.y, Check::Close(FLOAT_ATTENTION))
    }

    fn prefill_params(&self, num_tiles: u32) -> attention_prefill_f32::Params {
        let attention_decode_f32::Params {
            rows,
            heads,
            kv_heads,
            head_dim,
            stride,
            table_stride,
            window,
            scale,
        } = self.params();
        attention_prefill_f32::Params {
            rows,
            heads,
            kv_heads,
            head_dim,
            stride,
            table_stride,
            window,
            scale,
            num_tiles,
        }
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

    fn prefill_f32(&self, longest: u32) -> Case {
        let inputs = self.inputs();
        let tiles = self.tiles(&inputs.row_info, longest);
        let params = self.prefill_params(tiles.len() as u32);
        Case::new(
            &attention_prefill_f32::KERNEL,
            self.name(),
            params,
            attention_prefill_f32::grid(&params),
        )
        .input(&inputs.row_info)
        .input(&tiles)
        .input(&inputs.block_table)
        .input(&inputs.qkv)
        .input(&inputs.k_pool)
        .input(&inputs.v_pool)
        .output(&inputs.y, Check::Close(FLOAT_ATTENTION))
    }

    fn prefill_f16(&self, longest: u32) -> Case {
        let inputs = self.inputs();
        let tiles = self.tiles(&inputs.row_info, longest);
        let params = self.prefill_params(tiles.len() as u32);
        Case::new(
            &attention_prefill_f16::KERNEL,
            self.name(),
            params,
            attention_prefill_f16::grid(&params),
        )
        .input(&inputs.row_info)
        .input(&tiles)
        .input(&inputs.block_table)
        .input(&inputs.qkv)
        .input(&halves(&inputs.k_pool))
        .input(&halves(&inputs.v_pool))
        .output(&inputs.y, Check::Close(FLOAT_ATTENTION))
    }
}

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&v| f16::from_f32(v)).collect()
}
