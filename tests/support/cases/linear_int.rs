//! Cases of the integer linears. Every shape runs twice: once for the accumulators, which must be equal, and once for what
//! the epilogue makes of them.

use crate::case::{Case, Check, FlatRow};
use crate::rng::Rng;
use crate::tolerance::FLOAT_INT_EPILOGUE;
use plateau_shaders::attention::map_with_runs;
use plateau_shaders::linear::integer::{Division, FewRows, Params, Weights, coop_grid};
use plateau_shaders::linear::{
    gemm_i4, gemm_i4_coop8, gemm_i4_coop16, gemm_i4_coop16_int8, gemm_i4_coop16_int8_few,
    gemm_i4_f32, gemm_i8, gemm_i8_coop8, gemm_i8_coop16, gemm_i8_coop16_int8,
    gemm_i8_coop16_int8_few, gemm_i8_f32, gemv_i4, gemv_i4_subgroup, gemv_i8, gemv_i8_subgroup,
    norm_gate_up_i4, norm_gate_up_i8, norm_gemv_i4, norm_gemv_i8, norm_input,
};
use plateau_shaders::quantize::flatten_quantize::extra;
use plateau_shaders::{Kernel, pack, padded};
use std::sync::Arc;

/// What the integers are like.
#[derive(Clone, Copy, Debug)]
enum Values {
    Uniform,
    /// Mostly small, with columns at the end of the range.
    Outliers,
    /// Every product is q_max squared.
    SameExtremes,
    /// Every product is minus q_max squared.
    OppositeExtremes,
}

/// A linear: its shape, and which of the options it uses.
#[derive(Clone, Copy, Debug)]
struct Linear {
    rows: u32,
    in_features: u32,
    out_features: u32,
    values: Values,
    x_per_tensor: bool,
    w_per_tensor: bool,
    bias: bool,
    accumulate: bool,
    /// Outputs that stand before and after this part in a row of y.
    split: (u32, u32),
    /// Of INT4 weights.
    group_size: u32,
}

const PLAIN: Linear = Linear {
    rows: 1,
    in_features: 64,
    out_features: 64,
    values: Values::Uniform,
    x_per_tensor: false,
    w_per_tensor: false,
    bias: false,
    accumulate: false,
    split: (0, 0),
    group_size: 0,
};

fn linears() -> Vec<Linear> {
    let mut linears = Vec::new();
    // [rows, in_features, out_features]
    let shapes = [
        [1, 1, 1],
        [1, 31, 7],
        [1, 257, 63],
        [2, 32, 64],
        [3, 65, 65],
        [5, 1000, 130],
        [1, 4099, 33],
        [63, 64, 64],
        [64, 96, 65],
        [65, 2047, 63],
        [130, 33, 257],
    ];
    for [rows, in_features, out_features] in shapes {
        linears.push(Linear {
            rows,
            in_features,
            out_features,
            ..PLAIN
        });
    }
    for values in [
        Values::Outliers,
        Values::SameExtremes,
        Values::OppositeExtremes,
    ] {
        for (rows, in_features) in [(1, 5000), (67, 300)] {
            linears.push(Linear {
                rows,
                in_features,
                out_features: 35,
                values,
                ..PLAIN
            });
        }
    }
    for rows in [1, 66] {
        let linear = Linear {
            rows,
            in_features: 127,
            out_features: 65,
            ..PLAIN
        };
        linears.push(Linear {
            bias: true,
            ..linear
        });
        linears.push(Linear {
            accumulate: true,
            ..linear
        });
        linears.push(Linear {
            x_per_tensor: true,
            w_per_tensor: true,
            ..linear
        });
        linears.push(Linear {
            split: (3, 0),
            bias: true,
            w_per_tensor: true,
            ..linear
        });
        linears.push(Linear {
            split: (64, 5),
            bias: true,
            accumulate: true,
            x_per_tensor: true,
            ..linear
        });
    }
    linears
}

/// INT4 alone: group sizes with odd ends, more than eight groups, extremes, and every place of the multipliers in `aux`.
fn grouped() -> Vec<Linear> {
    let mut linears = Vec::new();
    for group_size in [32, 64, 128] {
        for (rows, in_features, out_features) in
            [(1, 31, 3), (1, 1500, 65), (3, 260, 33), (65, 160, 66)]
        {
            linears.push(Linear {
                rows,
                in_features,
                out_features,
                group_size,
                ..PLAIN
            });
        }
        for rows in [1, 7, 68] {
            let linear = Linear {
                rows,
                in_features: 1100,
                out_features: 37,
                group_size,
                ..PLAIN
            };
            linears.push(Linear {
                values: Values::SameExtremes,
                ..linear
            });
            linears.push(Linear {
                values: Values::OppositeExtremes,
                bias: true,
                ..linear
            });
            linears.push(Linear {
                w_per_tensor: true,
                bias: true,
                split: (2, 1),
                ..linear
            });
            linears.push(Linear {
                w_per_tensor: true,
                accumulate: true,
                x_per_tensor: true,
                ..linear
            });
        }
    }
    linears
}

/// For the matrices of f16, whose sums are taken in parts of 1024 features: at the bound, one step beyond, and far beyond 2^24, in tiles
/// with odd ends.
fn many_features() -> [Linear; 5] {
    let linear = |rows, in_features, values| Linear {
        rows,
        in_features,
        out_features: 19,
        values,
        ..PLAIN
    };
    [
        linear(129, 1024, Values::SameExtremes),
        linear(2, 1025, Values::OppositeExtremes),
        linear(17, 3100, Values::Uniform),
        linear(3, 8193, Values::SameExtremes),
        linear(3, 8193, Values::OppositeExtremes),
    ]
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for linear in linears() {
        for raw in [true, false] {
            cases.push(case(&gemm_i8::KERNEL, gemm_i8::grid, 127, linear, raw));
            cases.push(case(&gemv_i8::KERNEL, gemv_i8::grid, 127, linear, raw));
            let kernel = &gemv_i8_subgroup::KERNEL;
            cases.extend(by_subgroup(kernel, 127, linear, raw));
        }
    }
    for linear in [linears(), many_features().to_vec()].concat() {
        for raw in [true, false] {
            let kernel = &gemm_i8_f32::KERNEL;
            cases.push(case(kernel, gemm_i8_f32::grid, 127, linear, raw));
            let kernel = &gemm_i8_coop8::KERNEL;
            cases.push(case(kernel, gemm_i8_coop8::grid, 127, linear, raw));
            let kernel = &gemm_i8_coop16::KERNEL;
            cases.push(case(kernel, gemm_i8_coop16::grid, 127, linear, raw));
            let kernel = &gemm_i8_coop16_int8::KERNEL;
            cases.push(case(kernel, gemm_i8_coop16_int8::grid, 127, linear, raw));
            let kernel = &gemm_i8_coop16_int8_few::KERNEL;
            cases.extend(DIVISIONS_OF_FEW.map(|few| few_rows(kernel, 127, linear, raw, few)));
        }
    }
    let grouped_and_many = many_features().map(|linear| Linear {
        group_size: 32,
        ..linear
    });
    for linear in [
        linears(),
        grouped(),
        many_features().to_vec(),
        grouped_and_many.to_vec(),
    ]
    .concat()
    {
        for raw in [true, false] {
            let kernel = &gemm_i4_f32::KERNEL;
            cases.push(case(kernel, gemm_i4_f32::grid, 7, linear, raw));
            let kernel = &gemm_i4_coop8::KERNEL;
            cases.push(case(kernel, gemm_i4_coop8::grid, 7, linear, raw));
            let kernel = &gemm_i4_coop16::KERNEL;
            cases.push(case(kernel, gemm_i4_coop16::grid, 7, linear, raw));
            let kernel = &gemm_i4_coop16_int8::KERNEL;
            cases.push(case(kernel, gemm_i4_coop16_int8::grid, 7, linear, raw));
            let kernel = &gemm_i4_coop16_int8_few::KERNEL;
            cases.extend(DIVISIONS_OF_FEW.map(|few| few_rows(kernel, 7, linear, raw, few)));
        }
    }
    for linear in [linears(), grouped()].concat() {
        for raw in [true, false] {
            cases.push(case(&gemm_i4::KERNEL, gemm_i4::grid, 7, linear, raw));
            cases.push(case(&gemv_i4::KERNEL, gemv_i4::grid, 7, linear, raw));
            let kernel = &gemv_i4_subgroup::KERNEL;
            cases.extend(by_subgroup(kernel, 7, linear, raw));
        }
    }
    cases.extend(fused());
    cases
}

/// Each row for itself, and as many as there are, up to eight, in a workgroup; with pairs of many and few invocations, steps one by one, and
/// the width as a constant and not.
fn by_subgroup(kernel: &'static Kernel, w_max: i32, linear: Linear, raw: bool) -> Vec<Case> {
    let rows = linear.rows.min(Division::MOST_ROWS);
    let mut divisions = vec![
        (1, 32, 4),
        (1, 32, 3),
        (1, 16, 1),
        (rows, 8, 4),
        (rows, 16, 4),
        (rows, 16, 1),
        (rows.min(4), 16, 1),
    ];
    divisions.sort_unstable();
    divisions.dedup();
    let width = |rows, group| match (rows, group) {
        (1, 32) => padded(linear.in_features) / 4,
        _ => 0,
    };
    let division = |(rows, group, steps_ahead)| Division {
        rows,
        group,
        steps_ahead,
        in_words: width(rows, group),
    };
    let divisions = divisions.into_iter().map(division);
    divisions
        .map(|division| divided(kernel, w_max, linear, raw, division))
        .collect()
}

fn divided(
    kernel: &'static Kernel,
    w_max: i32,
    linear: Linear,
    raw: bool,
    division: Division,
) -> Case {
    let mut case = case(kernel, |_| [0; 3], w_max, linear, raw);
    let params = bytemuck::pod_read_unaligned(&case.params);
    case.grid = division.grid(&params);
    for (name, value) in division.constants() {
        case.name += &format!(" {name}={value}");
        case = case.constant(name, value);
    }
    case
}

/// Every value that `FewRows::of` gives an override, and what it does not give together.
const DIVISIONS_OF_FEW: [FewRows; 4] = [few(1, 4, 1), few(2, 4, 2), few(2, 16, 1), few(1, 16, 2)];

const fn few(row_frags: u32, subgroups: u32, loaded_parts: u32) -> FewRows {
    FewRows {
        row_frags,
        subgroups,
        loaded_parts,
    }
}

fn few_rows(
    kernel: &'static Kernel,
    w_max: i32,
    linear: Linear,
    raw: bool,
    division: FewRows,
) -> Case {
    let mut case = case(kernel, |_| [0; 3], w_max, linear, raw);
    case.grid = division.grid(&bytemuck::pod_read_unaligned(&case.params));
    for (name, value) in division.constants() {
        case.name += &format!(" {name}={value}");
        case = case.constant(name, value);
    }
    case
}

/// A map in which one channel in five has two to five parts, each tile's in whole words.
fn tiled_map(features: u32, tile: u32) -> Vec<u32> {
    let parts_of = |j: u32| if j % 5 == 3 { 2 + j / 5 % 4 } else { 1 };
    let mut map: Vec<u32> = (0..features).map(parts_of).collect();
    for first in (0..features).step_by(tile as usize) {
        for j in first..(first + tile).min(features) {
            map.extend((1..parts_of(j)).map(|part| extra(j, part)));
        }
        map.resize(map.len().next_multiple_of(4), extra(0, 255));
    }
    map
}

/// A norm, flat integers and a linear of one row.
struct Fused {
    in_features: u32,
    /// Whether channels have extra parts.
    flat: bool,
    /// Of norm_gemv; norm_gate_up has whole tiles.
    out_features: u32,
    q_max: u32,
    group_size: u32,
    bias: bool,
    w_per_tensor: bool,
    /// Invocations of a pair of outputs of norm_gemv.
    group: u32,
}

const FUSED: &[Fused] = &[
    Fused {
        in_features: 16,
        flat: false,
        out_features: 1,
        q_max: 127,
        group_size: 0,
        bias: false,
        w_per_tensor: false,
        group: 16,
    },
    Fused {
        in_features: 272,
        flat: true,
        out_features: 67,
        q_max: 127,
        group_size: 32,
        bias: true,
        w_per_tensor: false,
        group: 8,
    },
    Fused {
        in_features: 4112,
        flat: true,
        out_features: 100,
        q_max: 7,
        group_size: 64,
        bias: false,
        w_per_tensor: true,
        group: 16,
    },
    Fused {
        in_features: 1056,
        flat: false,
        out_features: 33,
        q_max: 127,
        group_size: 0,
        bias: true,
        w_per_tensor: true,
        group: 16,
    },
];

impl Fused {
    fn name(&self) -> String {
        let Self {
            in_features,
            flat,
            out_features,
            q_max,
            group_size,
            bias,
            w_per_tensor,
            group,
        } = self;
        format!(
            "in={in_features} flat={flat} out={out_features} q_max={q_max} group={group_size} bias={bias} \
             w_per_tensor={w_per_tensor} group_of_pair={group}"
        )
    }

    /// `with_inputs` for outputs of `case`, with the inputs of the kernels' first five bindings.
    fn case<P: bytemuck::Pod>(
        &self,
        kernel: &'static Kernel,
        w_max: i32,
        out_features: u32,
        params: impl FnOnce(Inputs) -> (P, [u32; 3]),
    ) -> Case {
        let mut rng = Rng::new(u64::from(self.in_features) * 1000 + u64::from(out_features));
        let features = self.in_features as usize;
        // Whole numbers, and a scale for which the normed ones are whole steps: no rounding is near a tie.
        let whole = |v: i32| v as f32;
        let mut x: Vec<f32> = rng.integers(features, 40).into_iter().map(whole).collect();
        x.iter_mut().step_by(7).for_each(|x| *x *= 9.0);
        let weight: Vec<f32> = (0..features).map(|i| 1.0 + (i % 3) as f32).collect();
        let mean_sq = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / features as f64;
        let map = match self.flat {
            true => tiled_map(self.in_features, 64),
            false => vec![1; features],
        };
        let in_words = pack::i8_row_words(map.len()) as u32;
        let inputs = Inputs {
            in_words,
            in_flat_features: map.len() as u32,
            in_inv_scale: mean_sq.sqrt() as f32,
        };
        let pack = if w_max == 127 {
            pack::pack_i8
        } else {
            pack::pack_i4
        };
        let (rows, columns) = (out_features, map.len() as u32);
        let w = integers(&mut rng, rows, columns, w_max, 1, Values::Uniform, pack);
        let scales = if self.w_per_tensor { 1 } else { out_features };
        let mut aux: Vec<u32> = (0..scales)
            .map(|_| (0.001 * (1.5 + rng.unit())).to_bits())
            .collect();
        if self.bias {
            let bias = rng.floats(out_features as usize, 0.5);
            aux.extend(bias.iter().map(|bias| bias.to_bits()));
        }
        let group_size = if w_max == 127 { 0 } else { self.group_size };
        let groups = pack::num_groups(map.len(), group_size as usize);
        for _ in 0..out_features {
            let multipliers = (0..groups).map(|_| 1 + rng.below(pack::MULTIPLIER_MAX));
            aux.extend(pack::pack_multipliers(&multipliers.collect::<Vec<_>>()));
        }
        let (params, grid) = params(inputs);
        let mut case = Case::new(kernel, self.name(), params, grid)
            .input(&x)
            .input(&weight)
            .input(&w)
            .input(&aux)
            .input(&map);
        for (name, value) in norm_input::constants(self.in_features, in_words) {
            case = case.constant(name, value);
        }
        if group_size > 0 {
            case = case.constant("GROUP_SIZE", group_size);
        }
        case
    }

    fn gemv(&self, kernel: &'static Kernel, w_max: i32, steps_ahead: u32) -> Case {
        let first_out = 3;
        let mut case = self.case(kernel, w_max, self.out_features, |inputs| {
            let params = norm_input::GemvParams {
                in_features: self.in_features,
                in_words: inputs.in_words,
                out_features: self.out_features,
                first_out,
                w_scale_stride: u32::from(!self.w_per_tensor),
                has_bias: u32::from(self.bias),
                in_flat_features: inputs.in_flat_features,
                in_q_max: self.q_max,
                in_inv_scale: inputs.in_inv_scale,
                x_scale: 0.01,
                eps: 1e-6,
            };
            (params, norm_input::gemv_grid(&params, self.group))
        });
        let y = vec![1f32; (first_out + self.out_features) as usize];
        case.name += &format!(" STEPS_AHEAD={steps_ahead}");
        case.constant("GROUP", self.group)
            .constant("STEPS_AHEAD", steps_ahead)
            .output(&y, Check::Close(FLOAT_INT_EPILOGUE))
    }

    fn gate_up(&self, kernel: &'static Kernel, weights: Weights, wide: bool) -> Case {
        let w_max = match weights {
            Weights::Int8 => 127,
            Weights::Int4 => 7,
        };
        let features = self.out_features.next_multiple_of(norm_input::TILE);
        let map = tiled_map(features, norm_input::TILE);
        let mut case = self.case(kernel, w_max, 2 * features, |inputs| {
            let params = norm_input::GateUpParams {
                in_features: self.in_features,
                in_words: inputs.in_words,
                out_features: 2 * features,
                w_scale_stride: u32::from(!self.w_per_tensor),
                has_bias: u32::from(self.bias),
                in_flat_features: inputs.in_flat_features,
                in_q_max: self.q_max,
                in_inv_scale: inputs.in_inv_scale,
                x_scale: 0.01,
                eps: 1e-6,
                flat_features: map.len() as u32,
                q_max: self.q_max,
                inv_scale: self.q_max as f32 / 2.0,
            };
            (params, norm_input::gate_up_grid(&params))
        });
        let runs = map_with_runs(&map, features / norm_input::TILE, norm_input::TILE);
        let x_q = vec![u32::MAX; pack::i8_row_words(map.len())];
        let flat = FlatRow {
            features,
            q_max: self.q_max,
            map,
        };
        for (name, value) in norm_input::gate_up_constants(weights, wide) {
            case.name += &format!(" {name}={value}");
            case = case.constant(name, value);
        }
        case.input(&runs.expect("whole words of each tile"))
            .output(&x_q, Check::FlatWithinStep(Arc::new(flat)))
    }
}

/// What the input of a fused linear is.
struct Inputs {
    in_words: u32,
    in_flat_features: u32,
    in_inv_scale: f32,
}

fn fused() -> Vec<Case> {
    let mut cases = Vec::new();
    for fused in FUSED {
        for steps_ahead in [2, 4] {
            cases.push(fused.gemv(&norm_gemv_i8::KERNEL, 127, steps_ahead));
            cases.push(fused.gemv(&norm_gemv_i4::KERNEL, 7, steps_ahead));
        }
        for wide in [false, true] {
            cases.push(fused.gate_up(&norm_gate_up_i8::KERNEL, Weights::Int8, wide));
            cases.push(fused.gate_up(&norm_gate_up_i4::KERNEL, Weights::Int4, wide));
        }
    }
    cases
}

/// The linear of a benchmark, by the kernels that `ops` takes for so many rows.
pub fn plain(rows: u32, in_features: u32, out_features: u32) -> Vec<Case> {
    let linear = Linear {
        rows,
        in_features,
        out_features,
        ..PLAIN
    };
    if rows == 1 {
        let mut cases = vec![
            case(&gemv_i8::KERNEL, gemv_i8::grid, 127, linear, false),
            case(&gemv_i4::KERNEL, gemv_i4::grid, 7, linear, false),
        ];
        let in_words = padded(in_features) / 4;
        let division = |weights| Division {
            in_words,
            ..Division::of(rows, in_words, weights, false)
        };
        let eights = division(Weights::Int8);
        cases.push(divided(
            &gemv_i8_subgroup::KERNEL,
            127,
            linear,
            false,
            eights,
        ));
        for group_size in [0, 32] {
            let linear = Linear {
                group_size,
                ..linear
            };
            let fours = division(Weights::Int4);
            cases.push(divided(&gemv_i4_subgroup::KERNEL, 7, linear, false, fours));
        }
        cases
    } else {
        let coop16 = (&gemm_i8_coop16::KERNEL, &gemm_i4_coop16::KERNEL);
        let coop16_int8 = (&gemm_i8_coop16_int8::KERNEL, &gemm_i4_coop16_int8::KERNEL);
        let grouped = Linear {
            group_size: 32,
            ..linear
        };
        let mut cases = vec![
            case(&gemm_i8::KERNEL, gemm_i8::grid, 127, linear, false),
            case(&gemm_i4::KERNEL, gemm_i4::grid, 7, linear, false),
            case(&gemm_i8_f32::KERNEL, gemm_i8_f32::grid, 127, linear, false),
            case(&gemm_i4_f32::KERNEL, gemm_i4_f32::grid, 7, linear, false),
            case(
                &gemm_i8_coop8::KERNEL,
                gemm_i8_coop8::grid,
                127,
                linear,
                false,
            ),
            case(
                &gemm_i4_coop8::KERNEL,
                gemm_i4_coop8::grid,
                7,
                linear,
                false,
            ),
            case(coop16.0, coop_grid, 127, linear, false),
            case(coop16.1, coop_grid, 7, linear, false),
            case(coop16_int8.0, coop_grid, 127, linear, false),
            case(coop16_int8.1, coop_grid, 7, linear, false),
            case(coop16_int8.1, coop_grid, 7, grouped, false),
        ];
        if rows <= 32 {
            let in_words = padded(in_features) / 4;
            let division = |weights| Division {
                in_words,
                ..Division::of(rows, in_words, weights, false)
            };
            let (eights, fours) = (division(Weights::Int8), division(Weights::Int4));
            cases.extend([
                divided(&gemv_i8_subgroup::KERNEL, 127, linear, false, eights),
                divided(&gemv_i4_subgroup::KERNEL, 7, grouped, false, fours),
            ]);
            let (i8, i4) = (
                &gemm_i8_coop16_int8_few::KERNEL,
                &gemm_i4_coop16_int8_few::KERNEL,
            );
            let of = |weights| FewRows::of(rows, out_features, weights);
            let (eights, fours) = (of(Weights::Int8), of(Weights::Int4));
            cases.push(few_rows(i8, 127, linear, false, eights));
            cases.push(few_rows(i4, 7, grouped, false, fours));
        }
        cases
    }
}

fn case(
    kernel: &'static Kernel,
    grid: fn(&Params) -> [u32; 3],
    w_max: i32,
    linear: Linear,
    raw: bool,
) -> Case {
    let Linear {
        rows,
        in_features,
        out_features,
        values,
        group_size,
        ..
    } = linear;
    let params = Params {
        rows,
        in_words: pack::i8_row_words(in_features as usize) as u32,
        out_features,
        first_out: linear.split.0,
        out_stride: linear.split.0 + out_features + linear.split.1,
        x_scale_stride: u32::from(!linear.x_per_tensor),
        w_scale_stride: u32::from(!linear.w_per_tensor),
        has_bias: u32::from(linear.bias),
        accumulate: u32::from(linear.accumulate),
    };
    let mut rng =
        Rng::new(u64::from(in_features) << 32 | u64::from(rows) << 16 | u64::from(out_features));
    let x_sign = if matches!(values, Values::OppositeExtremes) {
        -1
    } else {
        1
    };
    let x_q = integers(
        &mut rng,
        rows,
        in_features,
        127,
        x_sign,
        values,
        pack::pack_i8,
    );
    let w = match w_max {
        127 => integers(
            &mut rng,
            out_features,
            in_features,
            w_max,
            1,
            values,
            pack::pack_i8,
        ),
        _ => integers(
            &mut rng,
            out_features,
            in_features,
            w_max,
            1,
            values,
            pack::pack_i4,
        ),
    };
    let x_scales = if linear.x_per_tensor {
        1
    } else {
        rows as usize
    };
    let x_scale: Vec<f32> = (0..x_scales).map(|_| 0.01 * (1.5 + rng.unit())).collect();
    let w_scales = if linear.w_per_tensor {
        1
    } else {
        out_features as usize
    };
    let mut aux: Vec<u32> = (0..w_scales)
        .map(|_| (0.001 * (1.5 + rng.unit())).to_bits())
        .collect();
    if linear.bias {
        aux.extend(
            rng.floats(out_features as usize, 2.0)
                .iter()
                .map(|bias| bias.to_bits()),
        );
    }
    let groups = pack::num_groups(in_features as usize, group_size as usize);
    for _ in 0..out_features {
        let multiplier = |_| match values {
            Values::SameExtremes | Values::OppositeExtremes => pack::MULTIPLIER_MAX,
            Values::Uniform | Values::Outliers => 1 + rng.below(pack::MULTIPLIER_MAX),
        };
        aux.extend(pack::pack_multipliers(
            &(0..groups).map(multiplier).collect::<Vec<_>>(),
        ));
    }
    let y = rng.floats((rows * params.out_stride) as usize, 3.0);

    let Linear {
        bias,
        accumulate,
        x_per_tensor,
        w_per_tensor,
        split,
        ..
    } = linear;
    let name = format!(
        "rows={rows} in={in_features} out={out_features} {values:?} group={group_size} bias={bias} accumulate={accumulate} \
         x_per_tensor={x_per_tensor} w_per_tensor={w_per_tensor} split={split:?} raw={raw}"
    );
    let check = if raw {
        Check::Exact
    } else {
        Check::Close(FLOAT_INT_EPILOGUE)
    };
    let mut case = Case::new(kernel, name, params, grid(&params))
        .input(&x_q)
        .input(&x_scale)
        .input(&w)
        .input(&aux)
        .output(&y, check)
        .ops(2 * u64::from(rows) * u64::from(in_features) * u64::from(out_features));
    if raw {
        case = case.constant("RAW_ACCUMULATORS", 1);
    }
    if group_size > 0 {
        case = case.constant("GROUP_SIZE", group_size);
    }
    case
}

/// Packed rows of integers within ±max.
fn integers(
    rng: &mut Rng,
    rows: u32,
    features: u32,
    max: i32,
    sign: i32,
    values: Values,
    pack: fn(&[i8]) -> Vec<u32>,
) -> Vec<u32> {
    let mut packed = Vec::new();
    for _ in 0..rows {
        let row: Vec<i32> = match values {
            Values::Uniform => rng.integers(features as usize, max),
            Values::Outliers => {
                let small = rng.integers(features as usize, max / 5);
                let outlier = |(i, v): (usize, i32)| if i % 16 == 3 { v.signum() * max } else { v };
                small.into_iter().enumerate().map(outlier).collect()
            }
            Values::SameExtremes | Values::OppositeExtremes => vec![sign * -max; features as usize],
        };
        packed.extend(pack(&row.iter().map(|&v| v as i8).collect::<Vec<_>>()));
    }
    packed
}
