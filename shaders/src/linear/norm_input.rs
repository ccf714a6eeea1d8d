//! What the fused linears of one row share: norm_input.wgsl, norm_gemv.wgsl, norm_gate_up.wgsl.

use super::integer::{self, Constants, Weights};
use crate::elementwise::silu_mul_flat;
use crate::kernel::{Call, Constant, div_ceil};
use crate::norm::rms_norm_flat;
use crate::pack;
use crate::quantize::flatten_quantize;
use bytemuck::{Pod, Zeroable};

/// What `in_features` is a multiple of.
pub const IN_STEP: u32 = 16;
/// Invocations of a wide workgroup, which not every adapter has.
pub const WIDE_WORKGROUP: u32 = 512;
/// Channels of a workgroup of norm_gate_up_*: what the runs of its map are of.
pub const TILE: u32 = 64;
/// The value of the override `GROUP` of norm_gemv_*: enough workgroups, though each makes the whole input.
pub const GEMV_GROUP: u32 = 16;

/// The parameters of norm_gemv_*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct GemvParams {
    /// Of the norm.
    pub in_features: u32,
    /// u32 words of the flat integers: padded flat features / 4.
    pub in_words: u32,
    pub out_features: u32,
    /// Where the first output stands in y.
    pub first_out: u32,
    /// 1: a scale per output; 0: one for the tensor.
    pub w_scale_stride: u32,
    pub has_bias: u32,
    pub in_flat_features: u32,
    /// 7 or 127.
    pub in_q_max: u32,
    /// q_max / threshold.
    pub in_inv_scale: f32,
    /// threshold / q_max
    pub x_scale: f32,
    pub eps: f32,
}

/// The parameters of norm_gate_up_*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct GateUpParams {
    /// Of the norm.
    pub in_features: u32,
    /// u32 words of the flat integers of the norm: padded flat features / 4.
    pub in_words: u32,
    /// Gate and up: twice the channels, which are whole tiles.
    pub out_features: u32,
    /// 1: a scale per output; 0: one for the tensor.
    pub w_scale_stride: u32,
    pub has_bias: u32,
    pub in_flat_features: u32,
    /// 7 or 127.
    pub in_q_max: u32,
    /// q_max / threshold.
    pub in_inv_scale: f32,
    /// threshold / q_max
    pub x_scale: f32,
    pub eps: f32,
    /// Of the product, the extra channels among them.
    pub flat_features: u32,
    pub q_max: u32,
    pub inv_scale: f32,
}

/// Workgroups in x, y, z, with `group` invocations to a pair of outputs: the override `GROUP`.
pub fn gemv_grid(params: &GemvParams, group: u32) -> [u32; 3] {
    let outputs = integer::Division::outputs(group);
    [div_ceil(params.out_features, outputs), 1, 1]
}

/// Workgroups in x, y, z.
pub fn gate_up_grid(params: &GateUpParams) -> [u32; 3] {
    [params.out_features / (2 * TILE), 1, 1]
}

/// Values of the overrides that size the memory of a workgroup.
pub fn constants(in_features: u32, in_words: u32) -> [Constant; 2] {
    [
        ("BULK_VECS", in_features / IN_STEP),
        ("X_VECS", in_words / 4),
    ]
}

/// Values of the overrides that divide norm_gate_up_*, whose workgroup has a tile: 512 invocations, where an adapter has `wide` workgroups,
/// since tiles are few.
pub fn gate_up_constants(weights: Weights, wide: bool) -> [Constant; 3] {
    let workgroup = if wide { WIDE_WORKGROUP } else { 256 };
    [
        ("WORKGROUP", workgroup),
        ("GROUP", workgroup / TILE),
        ("STEPS_AHEAD", steps_ahead(weights)),
    ]
}

/// The value of the override `STEPS_AHEAD` where there are many subgroups: more steps take registers that subgroups need.
pub const fn steps_ahead(weights: Weights) -> u32 {
    match weights {
        Weights::Int4 => 2,
        Weights::Int8 => 4,
    }
}

/// Bytes of workgroup memory that a kernel takes at most.
pub fn workgroup_bytes(in_words: u32) -> u32 {
    const SUMS: u32 = 4 * 256;
    const PRODUCTS: u32 = 2 * 4 * TILE;
    4 * in_words + SUMS + PRODUCTS
}

/// The definition of `norm_gemv_*`: `rms_norm_flat`, then the linear.
pub(super) fn gemv(call: &mut Call<'_>, weights: Weights) {
    let params: GemvParams = call.params();
    let norm = rms_norm_flat::Params {
        rows: 1,
        features: params.in_features,
        eps: params.eps,
        flat_features: params.in_flat_features,
        q_max: params.in_q_max,
        inv_scale: params.in_inv_scale,
    };
    let linear = integer::Params {
        rows: 1,
        in_words: params.in_words,
        out_features: params.out_features,
        first_out: params.first_out,
        out_stride: params.first_out + params.out_features,
        x_scale_stride: 0,
        w_scale_stride: params.w_scale_stride,
        has_bias: params.has_bias,
        accumulate: 0,
    };
    let y = call.write(6);
    linear_of_norm(call, weights, &norm, &linear, params.x_scale, y);
}

/// The definition of `norm_gate_up_*`: `rms_norm_flat`, the linear, then `silu_mul_flat`.
pub(super) fn gate_up(call: &mut Call<'_>, weights: Weights) {
    let params: GateUpParams = call.params();
    let norm = rms_norm_flat::Params {
        rows: 1,
        features: params.in_features,
        eps: params.eps,
        flat_features: params.in_flat_features,
        q_max: params.in_q_max,
        inv_scale: params.in_inv_scale,
    };
    let linear = integer::Params {
        rows: 1,
        in_words: params.in_words,
        out_features: params.out_features,
        first_out: 0,
        out_stride: params.out_features,
        x_scale_stride: 0,
        w_scale_stride: params.w_scale_stride,
        has_bias: params.has_bias,
        accumulate: 0,
    };
    let mut y = vec![0; params.out_features as usize];
    linear_of_norm(call, weights, &norm, &linear, params.x_scale, &mut y);
    let product = flatten_quantize::Params {
        rows: 1,
        features: params.out_features / 2,
        flat_features: params.flat_features,
        q_max: params.q_max,
        inv_scale: params.inv_scale,
    };
    let y: Vec<f32> = y.into_iter().map(f32::from_bits).collect();
    silu_mul_flat::reference(&product, &y, call.read(6), call.write(7));
}

fn linear_of_norm(
    call: &Call<'_>,
    weights: Weights,
    norm: &rms_norm_flat::Params,
    linear: &integer::Params,
    x_scale: f32,
    y: &mut [u32],
) {
    let mut x_q = vec![0; pack::i8_row_words(norm.flat_features as usize)];
    rms_norm_flat::reference(norm, call.read(1), call.read(2), call.read(5), &mut x_q);
    let constants = Constants {
        group_size: call.constant("GROUP_SIZE", 0),
        raw_accumulators: false,
    };
    let (w, aux) = (call.read(3), call.read(4));
    integer::reference(linear, constants, weights, &x_q, &[x_scale], w, aux, y);
}
