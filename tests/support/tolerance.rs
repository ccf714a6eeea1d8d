//! Every tolerance of the tests, named, with its reason. A test takes one from here or compares for equality.

/// Passes when `|found - expected| <= absolute + relative * max(|expected|, scale)`, where `scale` is the root mean square
/// of the expected tensor: an error is judged against what the sum was made of, not against a value that happens to cancel.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub name: &'static str,
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    /// The largest error of `expected` in a tensor whose root mean square is `scale`.
    pub fn allowed(&self, expected: f64, scale: f64) -> f64 {
        self.absolute + self.relative * expected.abs().max(scale)
    }
}

/// One or two roundings and a correctly rounded operation: 4 ulp of f32 (2^-23 each, rounded up).
pub const FLOAT_FEW_ULP: Tolerance = Tolerance {
    name: "few ulp",
    absolute: 1e-37,
    relative: 5e-7,
};

/// exp, sqrt, division or their mixtures: WGSL allows 3 + 2|x| ulp for exp and 2.5 ulp for division; |x| stays under 30.
pub const FLOAT_TRANSCENDENTAL: Tolerance = Tolerance {
    name: "transcendental",
    absolute: 1e-30,
    relative: 1e-5,
};

/// A sum of up to some thousand f32 products against an f64 sum: rounding grows like sqrt(n) * 2^-24 times the magnitude of
/// the terms, 2e-6 for n = 1000; cancelling outliers raise the terms above the result, hence 2e-5.
pub const FLOAT_SUM: Tolerance = Tolerance {
    name: "f32 sum",
    absolute: 1e-30,
    relative: 2e-5,
};

/// Attention. A score is a sum of up to 256 products, of magnitude up to 30 here: off by some 30 * 1e-6, and exp turns that
/// absolute error into a relative one of the weight, 3e-5. WGSL's exp itself may be off by 63 ulp at -30, 8e-6.
pub const FLOAT_ATTENTION: Tolerance = Tolerance {
    name: "attention",
    absolute: 1e-30,
    relative: 5e-5,
};

/// Attention on matrices of f16 with sums in f32, against a twin that rounds the queries as it does: a weight is rounded to a half, to
/// either side, 2^-10 of it. Of the values that a row averages these errors are independent, so the root mean square is some 2^-11.
pub const HALVES_ATTENTION: Tolerance = Tolerance {
    name: "attention with weights in halves",
    absolute: 1e-30,
    relative: 2e-3,
};

/// The epilogue of an integer linear: the accumulator to f32 (to either neighbour), two scales multiplied, a multiply-add
/// that need not be fused, an addition to y: five roundings of 2^-24, of terms a few times the result.
pub const FLOAT_INT_EPILOGUE: Tolerance = Tolerance {
    name: "integer epilogue",
    absolute: 1e-37,
    relative: 1e-6,
};

/// Logits of an f32 model on the twins against float64: the twins sum in f64 and round once for each value that a dispatch
/// stores, some hundred roundings of 2^-24 on values up to 20 along the way.
pub const LOGITS_TWIN: Tolerance = Tolerance {
    name: "f32 logits on the twins",
    absolute: 2e-4,
    relative: 0.0,
};

/// The same on a GPU, where sums are f32 and exp, division and square root are as exact as WGSL asks for.
pub const LOGITS_GPU: Tolerance = Tolerance {
    name: "f32 logits on a GPU",
    absolute: 2e-3,
    relative: 0.0,
};

/// Perplexity of an f32 model against float64: errors of single logits average out over thousands of tokens.
pub const PERPLEXITY: Tolerance = Tolerance {
    name: "f32 perplexity",
    absolute: 0.0,
    relative: 1e-4,
};
/// A mean loss from the same f32 logits, both in f64: only the order of up to some hundred thousand additions differs.
pub const LOSS_OF_SAME_LOGITS: Tolerance = Tolerance {
    name: "loss of the same logits",
    absolute: 0.0,
    relative: 1e-9,
};

/// One formula in f64, evaluated by two programs: a few of its roundings of 2^-53 differ.
pub const SAME_FORMULA: Tolerance = Tolerance {
    name: "the same formula in f64",
    absolute: 0.0,
    relative: 1e-12,
};

/// The quantizer's objective from the damped Hessian's factor, less what the damping adds: sums in f64 of which a part
/// cancels, a few thousand roundings of 2^-53.
pub const DAMPED_OBJECTIVE: Tolerance = Tolerance {
    name: "objective from a damped factor",
    absolute: 1e-12,
    relative: 1e-9,
};

/// A value rounded to the nearest step lies within half a step, but for the roundings of the value's quotient.
pub const HALF_STEP: Tolerance = Tolerance {
    name: "half a step",
    absolute: 0.0,
    relative: 1e-6,
};

/// The log-likelihood of a continuation of up to a hundred tokens, by two programs with f32 logits: each token's is off by
/// some 1e-5, as [`LOGITS_TWIN`] says, and the references have five decimals.
pub const LOG_LIKELIHOOD: Tolerance = Tolerance {
    name: "f32 log-likelihood",
    absolute: 2e-3,
    relative: 0.0,
};

/// Logits of small random models with INT8 weights and activations, calibrated on some hundred random tokens. A wrong scale,
/// map or order gives 1 and more, as unrelated logits do; what is right gave 0.02 to 0.12, since some ten linears in a row
/// each add a percent, and rare values saturate.
pub const QUANTIZED_INT8: Tolerance = Tolerance {
    name: "logits of an INT8 model",
    absolute: 0.0,
    relative: 0.2,
};

/// The same with INT4 weights, whose step is 18 times as large: 0.13 to 0.53, with INT8 activations or floats, which make little
/// difference then.
pub const QUANTIZED_INT4: Tolerance = Tolerance {
    name: "logits of a model with INT4 weights",
    absolute: 0.0,
    relative: 0.6,
};

/// The same with half the work in INT4 by INT4 and the other in INT8: 0.11 to 0.28.
pub const QUANTIZED_INT4_BY_INT4: Tolerance = Tolerance {
    name: "logits of a model half in INT4 by INT4",
    absolute: 0.0,
    relative: 0.4,
};

/// Logits of an INT8 head, over the largest: half a step of 127 of each input and weight, some dozens of them in a sum.
pub const QUANTIZED_HEAD: Tolerance = Tolerance {
    name: "logits of an INT8 head",
    absolute: 0.0,
    relative: 0.03,
};

/// Of the best two logits of a model in f32, over the largest: how near they may be where two implementations choose differently. Logits
/// of sums in f32 and in f64 were 1e-6 apart.
pub const NEAR_TIE_FLOAT: Tolerance = Tolerance {
    name: "near tie of floats",
    absolute: 0.0,
    relative: 2e-5,
};

/// The same with a cache of halves, each 2^-11 of itself off at most, which may round otherwise: logits were up to 4e-5 apart. Room for
/// attention on matrices of halves, whose weights are rounded too.
pub const NEAR_TIE_HALVES: Tolerance = Tolerance {
    name: "near tie with halves",
    absolute: 0.0,
    relative: 5e-3,
};

/// The same with INT8 activations. A float that rounds the other way moves one integer by a step, what follows from it moves others,
/// and after some linears all roundings are other ones: logits are then as far apart as the step makes them, up to 6e-2 were seen.
pub const NEAR_TIE_INT8: Tolerance = Tolerance {
    name: "near tie of INT8 activations",
    absolute: 0.0,
    relative: 0.12,
};

/// The same with INT4 activations, whose step is 18 times as large: up to 0.16 were seen.
pub const NEAR_TIE_INT4: Tolerance = Tolerance {
    name: "near tie of INT4 activations",
    absolute: 0.0,
    relative: 0.35,
};

/// A choice of greedy sampling that another device has to make too: the largest logit is so much above the next. With logits that are D
/// apart on two devices the largest loses 2 D at most against another. The built-in model's logits on llvmpipe and SwiftShader are within
/// 1e-3 of the twins' over 36 tokens; then a float near a tie becomes another integer, and all later tokens have it in their keys: up to
/// 0.362 were seen, of 49 tokens. That is 2 D = 0.73, and the rest is room for ties that fall elsewhere on another device. Where logits are
/// further apart than half of it, the comparison fails and says so.
pub const CLEAR_CHOICE: f64 = 1.0;
