//! Cases of the integer linears. Every shape runs twice: once for the accumulators, which must be equal, and once for what
//! the epilogue makes of them.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_INT_EPILOGUE;
use plateau_shaders::linear::integer::{Params, coop_grid};
use plateau_shaders::linear::{
    gemm_i4, gemm_i4_coop16, gemm_i4_coop16_int8, gemm_i8, gemm_i8_coop16, gemm_i8_coop16_int8,
    gemv_i4, gemv_i4_subgroup, gemv_i8, gemv_i8_subgroup,
};
use plateau_shaders::{Kernel, pack};

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
            cases.push(case(kernel, gemv_i8_subgroup::grid, 127, linear, raw));
        }
    }
    for linear in [linears(), many_features().to_vec()].concat() {
        for raw in [true, false] {
            let kernel = &gemm_i8_coop16::KERNEL;
            cases.push(case(kernel, gemm_i8_coop16::grid, 127, linear, raw));
            let kernel = &gemm_i8_coop16_int8::KERNEL;
            cases.push(case(kernel, gemm_i8_coop16_int8::grid, 127, linear, raw));
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
            let kernel = &gemm_i4_coop16::KERNEL;
            cases.push(case(kernel, gemm_i4_coop16::grid, 7, linear, raw));
            let kernel = &gemm_i4_coop16_int8::KERNEL;
            cases.push(case(kernel, gemm_i4_coop16_int8::grid, 7, linear, raw));
        }
    }
    for linear in [linears(), grouped()].concat() {
        for raw in [true, false] {
            cases.push(case(&gemm_i4::KERNEL, gemm_i4::grid, 7, linear, raw));
            cases.push(case(&gemv_i4::KERNEL, gemv_i4::grid, 7, linear, raw));
            let kernel = &gemv_i4_subgroup::KERNEL;
            cases.push(case(kernel, gemv_i4_subgroup::grid, 7, linear, raw));
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
        let by_subgroup = (&gemv_i8_subgroup::KERNEL, &gemv_i4_subgroup::KERNEL);
        vec![
            case(&gemv_i8::KERNEL, gemv_i8::grid, 127, linear, false),
            case(&gemv_i4::KERNEL, gemv_i4::grid, 7, linear, false),
            case(by_subgroup.0, gemv_i8::grid, 127, linear, false),
            case(by_subgroup.1, gemv_i4::grid, 7, linear, false),
        ]
    } else {
        let coop16 = (&gemm_i8_coop16::KERNEL, &gemm_i4_coop16::KERNEL);
        let coop16_int8 = (&gemm_i8_coop16_int8::KERNEL, &gemm_i4_coop16_int8::KERNEL);
        vec![
            case(&gemm_i8::KERNEL, gemm_i8::grid, 127, linear, false),
            case(&gemm_i4::KERNEL, gemm_i4::grid, 7, linear, false),
            case(coop16.0, coop_grid, 127, linear, false),
            case(coop16.1, coop_grid, 7, linear, false),
            case(coop16_int8.0, coop_grid, 127, linear, false),
            case(coop16_int8.1, coop_grid, 7, linear, false),
        ]
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
