//! Cases of the float linears.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_SUM;
use half::f16;
use plateau_shaders::linear::{gemm_f16, gemm_f32, gemv_f16, gemv_f32};
use plateau_shaders::{Kernel, padded};

/// What a linear computes; which kernel does it is another matter.
#[derive(Clone, Copy)]
struct Problem {
    rows: u32,
    in_features: u32,
    out_features: u32,
    has_bias: bool,
    accumulate: bool,
    /// Columns of y before and after those of this dispatch.
    margins: [u32; 2],
}

const fn problem(rows: u32, in_features: u32, out_features: u32) -> Problem {
    Problem {
        rows,
        in_features,
        out_features,
        has_bias: false,
        accumulate: false,
        margins: [0, 0],
    }
}

const FEW_ROWS: &[Problem] = &[
    problem(1, 1, 1),
    problem(1, 36, 105),
    Problem {
        has_bias: true,
        ..problem(2, 257, 63)
    },
    Problem {
        accumulate: true,
        ..problem(3, 64, 65)
    },
    Problem {
        has_bias: true,
        accumulate: true,
        margins: [5, 3],
        ..problem(8, 130, 9)
    },
    // More than one round of partial sums, with a ragged last chunk.
    problem(1, 4096 + 33, 10),
];

const MANY_ROWS: &[Problem] = &[
    Problem {
        has_bias: true,
        ..problem(63, 36, 105)
    },
    Problem {
        accumulate: true,
        margins: [1, 64],
        ..problem(64, 257, 64)
    },
    Problem {
        has_bias: true,
        accumulate: true,
        ..problem(65, 64, 65)
    },
    problem(130, 99, 200),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for problem in FEW_ROWS {
        cases.extend([&gemv_f32::KERNEL, &gemv_f16::KERNEL].map(|kernel| problem.case(kernel)));
    }
    for problem in FEW_ROWS.iter().chain(MANY_ROWS) {
        cases.extend([&gemm_f32::KERNEL, &gemm_f16::KERNEL].map(|kernel| problem.case(kernel)));
    }
    cases
}

/// The linear of a benchmark, by the kernels that `ops` takes for so many rows.
pub fn plain(rows: u32, in_features: u32, out_features: u32) -> [Case; 2] {
    let kernels = if rows == 1 {
        [&gemv_f32::KERNEL, &gemv_f16::KERNEL]
    } else {
        [&gemm_f32::KERNEL, &gemm_f16::KERNEL]
    };
    kernels.map(|kernel| problem(rows, in_features, out_features).case(kernel))
}

/// The same product by a GEMV and a GEMM: the outputs must be equal bit for bit on one device.
pub fn equal_pairs() -> Vec<(Case, Case)> {
    let pairs = [
        (&gemv_f32::KERNEL, &gemm_f32::KERNEL),
        (&gemv_f16::KERNEL, &gemm_f16::KERNEL),
    ];
    let problems = FEW_ROWS.iter().chain(MANY_ROWS);
    problems
        .flat_map(|problem| pairs.map(|(gemv, gemm)| (problem.case(gemv), problem.case(gemm))))
        .collect()
}

impl Problem {
    /// One dispatch. The inputs depend on the problem alone.
    fn case(&self, kernel: &'static Kernel) -> Case {
        let Self {
            rows,
            in_features,
            out_features,
            has_bias,
            accumulate,
            margins,
        } = *self;
        let params = gemm_f32::Params {
            rows,
            in_features,
            out_features,
            first_out: margins[0],
            out_stride: margins[0] + out_features + margins[1],
            has_bias: u32::from(has_bias),
            accumulate: u32::from(accumulate),
        };
        let is_gemv = kernel.name.starts_with("gemv");
        let grid = if is_gemv {
            gemv_f32::grid(&params)
        } else {
            gemm_f32::grid(&params)
        };
        let mut rng = Rng::new(
            u64::from(in_features) * 1_000_000 + u64::from(out_features) * 1000 + u64::from(rows),
        );
        let x = rng.outliers(rows as usize, in_features as usize, 1.0);
        let stride = padded(in_features) as usize;
        let mut w = rng.floats(out_features as usize * stride, 0.5);
        for row in w.chunks_exact_mut(stride) {
            row[in_features as usize..].fill(0.0);
        }
        let aux = rng.floats(if has_bias { out_features as usize } else { 1 }, 2.0);
        let before = rng.floats((rows * params.out_stride) as usize, 2.0);
        let mut name = format!("rows={rows} in={in_features} out={out_features}");
        for (set, word) in [
            (has_bias, " bias"),
            (accumulate, " accumulate"),
            (margins != [0, 0], " columns"),
        ] {
            name.push_str(if set { word } else { "" });
        }
        let case = Case::new(kernel, name, params, grid)
            .ops(2 * u64::from(rows) * u64::from(in_features) * u64::from(out_features))
            .input(&x);
        let case = if kernel.name.ends_with("f16") {
            case.input(&w.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>())
        } else {
            case.input(&w)
        };
        case.input(&aux).output(&before, Check::Close(FLOAT_SUM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_of_a_pair_have_the_same_inputs() {
        for (gemv, gemm) in equal_pairs() {
            assert_eq!((&gemv.params, &gemv.buffers), (&gemm.params, &gemm.buffers));
        }
    }
}
