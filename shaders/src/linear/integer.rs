//! What the integer linears share: parameters, bindings, and the one twin of `gemm_i8`, `gemv_i8`, `gemm_i4` and `gemv_i4`.

use crate::kernel::{Access, Call, Constant, div_ceil};
use crate::{K_STEP, pack};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// x_q, x_scale, w, aux, y.
pub const BINDINGS: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Read,
    Access::ReadWrite,
];

/// The most features (padding included) whose products cannot leave an i32, whatever words a file holds: activations are ours,
/// from -127 to 127, and a weight reaches -128, as INT8 or as an INT4 of -8 times a group's multiplier of 16.
pub const MAX_IN_FEATURES: u32 = i32::MAX as u32 / (127 * 128) / K_STEP * K_STEP;

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    /// u32 words of a row of `x_q`: padded features / 4.
    pub in_words: u32,
    pub out_features: u32,
    /// Where the first output stands in a row of `y`.
    pub first_out: u32,
    /// Features of a row of `y`.
    pub out_stride: u32,
    /// 1: a scale per row of x; 0: one for the tensor.
    pub x_scale_stride: u32,
    /// 1: a scale per output; 0: one for the tensor.
    pub w_scale_stride: u32,
    pub has_bias: u32,
    /// 1: y += value.
    pub accumulate: u32,
}

/// How the GEMVs by subgroups divide their work: the values of the overrides of gemv_int_subgroup.wgsl and subgroup_pairs.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Rows of a workgroup, at most [`Division::MOST_ROWS`].
    pub rows: u32,
    /// Invocations of a pair of outputs, or for one row of an output.
    pub group: u32,
    /// Steps of an invocation that are on their way at once: 1, 4, or for one row 3.
    pub steps_ahead: u32,
    /// Words of a row of x, where pipelines are to have them as a constant: each width is one then. 0 where not.
    pub in_words: u32,
}

impl Division {
    pub const MOST_ROWS: u32 = 8;
    /// Where registers are few.
    const MOST_ROWS_IN_FEW_REGISTERS: u32 = 4;

    /// For a product of so many rows of `in_words` words with weights that are stored so.
    pub const fn of(rows: u32, in_words: u32, weights: Weights, few_registers: bool) -> Self {
        /// Invocations of a subgroup, on the adapter that this was measured on.
        const SUBGROUP: u32 = 32;
        // vec4s of a row of weights.
        let steps = match weights {
            Weights::Int8 => in_words / 4,
            Weights::Int4 => in_words / 8,
        };
        let most_rows = if few_registers {
            Self::MOST_ROWS_IN_FEW_REGISTERS
        } else {
            Self::MOST_ROWS
        };
        let workgroups = match rows.div_ceil(most_rows) {
            0 => 1,
            some => some,
        };
        Self {
            rows: div_ceil(rows, workgroups),
            // Workgroups of other rows are as good as those of other outputs, and more outputs of one read x less often.
            group: match workgroups {
                1 => SUBGROUP,
                2 => SUBGROUP / 2,
                _ => SUBGROUP / 4,
            },
            steps_ahead: match (weights, rows) {
                _ if steps <= SUBGROUP => 1,
                (Weights::Int4, 1) => 3,
                (_, 2..) if few_registers => 1,
                _ => 4,
            },
            in_words: 0,
        }
    }

    /// Whether a device with few registers is given so many rows and steps.
    pub const fn fits_few_registers(rows: u32, steps_ahead: u32) -> bool {
        rows == 1 || rows <= Self::MOST_ROWS_IN_FEW_REGISTERS && steps_ahead == 1
    }

    /// Outputs of a workgroup, with `group` invocations to a pair of them.
    pub const fn outputs(group: u32) -> u32 {
        512 / group
    }

    pub const fn constants(self) -> [Constant; 4] {
        [
            ("ROWS", self.rows),
            ("GROUP", self.group),
            ("STEPS_AHEAD", self.steps_ahead),
            ("IN_WORDS", self.in_words),
        ]
    }

    /// Workgroups in x, y, z.
    pub fn grid(self, params: &Params) -> [u32; 3] {
        let outputs = match self.rows {
            1 => Self::outputs(self.group) / 2,
            _ => Self::outputs(self.group),
        };
        [
            div_ceil(params.rows, self.rows),
            div_ceil(params.out_features, outputs),
            1,
        ]
    }
}

/// Workgroups in x, y, z of the GEMMs on cooperative matrices: gemm_coop.wgsl.
pub fn coop_grid(params: &Params) -> [u32; 3] {
    const TILE: u32 = 128;
    [
        div_ceil(params.out_features, TILE),
        div_ceil(params.rows, TILE),
        1,
    ]
}

/// Workgroups in x, y, z of the GEMMs on matrices of 8 by 8: gemm_coop8.wgsl.
pub fn coop8_grid(params: &Params) -> [u32; 3] {
    const TILE: u32 = 64;
    [
        div_ceil(params.out_features, TILE),
        div_ceil(params.rows, TILE),
        1,
    ]
}

/// How the GEMMs of few rows on cooperative matrices divide their work: the values of the overrides of gemm_coop16_int8_few.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FewRows {
    /// Sixteens of rows of a workgroup, 1 or 2.
    pub row_frags: u32,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
    /// Parts of 64 features that a subgroup loads at once, 1 or 2.
    pub loaded_parts: u32,
}

impl FewRows {
    /// Invocations of a subgroup: the kernels ask for this size.
    pub const SUBGROUP: u32 = 32;
    /// Subgroups of the largest workgroup.
    pub const MOST_SUBGROUPS: u32 = 16;
    const OUTPUTS: u32 = 32;

    /// For a product of so many rows with so many outputs. What is best on an H200, of 132 multiprocessors: workgroups of few
    /// subgroups, where there are so many workgroups that each multiprocessor has several.
    pub const fn of(rows: u32, out_features: u32, weights: Weights) -> Self {
        const MANY_WORKGROUPS: u32 = 257;
        let row_frags = if rows > 16 { 2 } else { 1 };
        let workgroups = div_ceil(rows, 16 * row_frags) * div_ceil(out_features, Self::OUTPUTS);
        let is_many = workgroups >= MANY_WORKGROUPS;
        Self {
            row_frags,
            subgroups: if is_many { 4 } else { Self::MOST_SUBGROUPS },
            loaded_parts: match weights {
                Weights::Int4 if is_many => row_frags,
                _ => 1,
            },
        }
    }

    pub const fn constants(self) -> [Constant; 3] {
        [
            ("ROW_FRAGS", self.row_frags),
            ("SUBGROUPS", self.subgroups),
            ("LOADED_PARTS", self.loaded_parts),
        ]
    }

    /// Workgroups in x, y, z.
    pub fn grid(self, params: &Params) -> [u32; 3] {
        [
            div_ceil(params.rows, 16 * self.row_frags),
            div_ceil(params.out_features, Self::OUTPUTS),
            1,
        ]
    }
}

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    Int8,
    Int4,
}

/// Values of the kernels' `override`s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Constants {
    /// Features per group of INT4 weights: 32, 64, 128, or 0 for none.
    pub group_size: u32,
    /// `y` receives the accumulators as bits.
    pub raw_accumulators: bool,
}

pub(crate) fn run(call: &mut Call<'_>, weights: Weights) {
    let constants = Constants {
        group_size: call.constant("GROUP_SIZE", 0),
        raw_accumulators: call.constant("RAW_ACCUMULATORS", 0) != 0,
    };
    reference(
        &call.params(),
        constants,
        weights,
        call.read(1),
        call.read(2),
        call.read(3),
        call.read(4),
        call.write(5),
    );
}

/// The definition of the integer linears; see the header of gemm_i8.wgsl or gemm_i4.wgsl for shapes.
pub fn reference(
    params: &Params,
    constants: Constants,
    weights: Weights,
    x_q: &[u32],
    x_scale: &[f32],
    w: &[u32],
    aux: &[u32],
    y: &mut [u32],
) {
    let (rows, outs) = (params.rows as usize, params.out_features as usize);
    let in_features = 4 * params.in_words as usize;
    debug_assert!(
        in_features as u32 <= MAX_IN_FEATURES,
        "{in_features} features may overflow an i32"
    );
    let (scales, aux) = aux.split_at(if params.w_scale_stride == 0 { 1 } else { outs });
    let (bias, multipliers) = aux.split_at(if params.has_bias == 0 { 0 } else { outs });

    let x: Vec<i16> = x_q[..rows * params.in_words as usize]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|byte| i16::from(byte as i8))
        .collect(); // [rows, in_features]
    let mut acc = vec![0i32; outs * rows]; // [out_features, rows]
    acc.par_chunks_mut(rows.max(1)).enumerate().for_each_init(
        || vec![0i16; in_features],
        |row_w, (out, acc)| {
            unpack_row(
                weights,
                constants.group_size as usize,
                w,
                multipliers,
                out,
                row_w,
            );
            for (acc, x) in acc.iter_mut().zip(x.chunks_exact(in_features)) {
                *acc = dot(x, row_w);
            }
        },
    );

    for row in 0..rows {
        let x_scale = x_scale[row * params.x_scale_stride as usize];
        let y = &mut y[row * params.out_stride as usize + params.first_out as usize..][..outs];
        for (out, y) in y.iter_mut().enumerate() {
            let acc = acc[out * rows + row];
            if constants.raw_accumulators {
                *y = acc as u32;
                continue;
            }
            let scale = x_scale * f32::from_bits(scales[out * params.w_scale_stride as usize]);
            let bias = bias.get(out).map_or(0.0, |&bias| f32::from_bits(bias));
            let value = (acc as f32).mul_add(scale, bias);
            let before = if params.accumulate == 0 {
                0.0
            } else {
                f32::from_bits(*y)
            };
            *y = (before + value).to_bits();
        }
    }
}

/// Row `out` of the weights, with the multipliers of its groups applied.
fn unpack_row(
    weights: Weights,
    group_size: usize,
    w: &[u32],
    multipliers: &[u32],
    out: usize,
    row: &mut [i16],
) {
    let features = row.len();
    match weights {
        Weights::Int8 => {
            let words = &w[out * features / 4..][..features / 4];
            for (values, word) in row.chunks_exact_mut(4).zip(words) {
                for (value, byte) in values.iter_mut().zip(word.to_le_bytes()) {
                    *value = i16::from(byte as i8);
                }
            }
        }
        Weights::Int4 => {
            let words = &w[out * features / 8..][..features / 8];
            for (values, &word) in row.chunks_exact_mut(8).zip(words) {
                let bytes = word.to_le_bytes();
                for b in 0..4 {
                    values[b] = i16::from(bytes[b] & 0xf) - 8;
                    values[4 + b] = i16::from(bytes[b] >> 4) - 8;
                }
            }
            if group_size > 0 {
                let row_words = pack::multiplier_row_words(features, group_size);
                let multipliers = &multipliers[out * row_words..][..row_words];
                for (group, values) in row.chunks_mut(group_size).enumerate() {
                    let m = pack::multiplier(multipliers, group) as i16;
                    values.iter_mut().for_each(|value| *value *= m);
                }
            }
        }
    }
}

/// The exact sum of products of i8 values.
fn dot(x: &[i16], w: &[i16]) -> i32 {
    // 2^14 * 2^16 = 2^30: an i32 holds the sum of a chunk whatever the i8 values are, so only the total is checked.
    const CHUNK: usize = 1 << 16;
    let part = |(x, w): (&[i16], &[i16])| {
        x.iter().zip(w).fold(0i32, |sum, (&x, &w)| {
            sum.wrapping_add(i32::from(x).wrapping_mul(i32::from(w)))
        })
    };
    let total: i64 = x
        .chunks(CHUNK)
        .zip(w.chunks(CHUNK))
        .map(|chunks| i64::from(part(chunks)))
        .sum();
    debug_assert!(
        i32::try_from(total).is_ok(),
        "accumulator {total} is beyond i32"
    );
    total as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(rows: u32, in_features: u32, out_features: u32) -> Params {
        Params {
            rows,
            in_words: in_features.next_multiple_of(32) / 4,
            out_features,
            first_out: 0,
            out_stride: out_features,
            x_scale_stride: 1,
            w_scale_stride: 1,
            has_bias: 0,
            accumulate: 0,
        }
    }

    #[test]
    fn one_by_hand() {
        let x_q = [pack::pack_i8(&[1, 2, -3]), pack::pack_i8(&[127, 0, 1])].concat();
        let w = [pack::pack_i8(&[5, -7, 2]), pack::pack_i8(&[-127, 1, 1])].concat();
        let aux = [0.5f32, 2.0, 10.0, -1.0].map(f32::to_bits);
        let mut y = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_bits);
        let params = Params {
            has_bias: 1,
            accumulate: 1,
            first_out: 1,
            out_stride: 3,
            ..params(2, 3, 2)
        };
        reference(
            &params,
            Constants::default(),
            Weights::Int8,
            &x_q,
            &[1.0, 0.25],
            &w,
            &aux,
            &mut y,
        );
        // acc: 5 - 14 - 6 = -15, -127 + 2 - 3 = -128; 635 + 2 = 637, -16129 + 1 = -16128.
        let expected = [
            1.0,
            2.0 + (-7.5 + 10.0),
            3.0 + (-256.0 - 1.0),
            4.0,
            5.0 + (79.625 + 10.0),
            6.0 + (-8064.0 - 1.0),
        ];
        assert_eq!(y.map(f32::from_bits), expected);
    }

    #[test]
    fn groups_multiply_their_own_features() {
        let x: Vec<i8> = (0..70).map(|i| (i % 11) as i8 - 5).collect();
        let w: Vec<i8> = (0..70).map(|i| (i % 15) as i8 - 7).collect();
        let multipliers = [3u32, 16, 1];
        let expected: i32 = (0..70)
            .map(|i| i32::from(x[i]) * i32::from(w[i]) * multipliers[i / 32] as i32)
            .sum();
        let aux = [vec![1f32.to_bits()], pack::pack_multipliers(&multipliers)].concat();
        let mut y = [0];
        let constants = Constants {
            group_size: 32,
            raw_accumulators: true,
        };
        reference(
            &params(1, 70, 1),
            constants,
            Weights::Int4,
            &pack::pack_i8(&x),
            &[1.0],
            &pack::pack_i4(&w),
            &aux,
            &mut y,
        );
        assert_eq!(y[0] as i32, expected);
    }

    #[test]
    fn the_largest_sum_fits() {
        let features = MAX_IN_FEATURES;
        let x_q = vec![0x8181_8181; features as usize / 4];
        let w = vec![0x8080_8080; features as usize / 4];
        let constants = Constants {
            group_size: 0,
            raw_accumulators: true,
        };
        let mut y = [0];
        reference(
            &params(1, features, 1),
            constants,
            Weights::Int8,
            &x_q,
            &[1.0],
            &w,
            &[0],
            &mut y,
        );
        assert_eq!(i64::from(y[0] as i32), i64::from(features) * 127 * 128);
    }
}
