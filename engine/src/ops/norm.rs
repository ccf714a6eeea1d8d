//! Normalization.

use crate::plan::{BufferId, Grid, Plan};
use plateau_shaders::norm::{
    head_norm as head_norm_kernel, layer_norm as layer_norm_kernel, rms_norm as rms_norm_kernel,
};

/// `y = x / rms(x) * weight` for x, y of [rows, hidden].
pub(super) fn rms_norm(
    plan: &mut Plan,
    label: String,
    x: BufferId,
    weight: BufferId,
    y: BufferId,
    rows: u32,
    hidden: u32,
    eps: f32,
) {
    let params = rms_norm_kernel::Params { rows, hidden, eps };
    let grid = Grid::Fixed(rms_norm_kernel::grid(&params));
    plan.dispatch(
        label,
        &rms_norm_kernel::KERNEL,
        params,
        grid,
        &[x, weight, y],
    );
}

/// `y = (x - mean) / deviation * weight + bias` for x, y of [rows, hidden]; `affine` is [2, hidden], weight and bias.
pub fn layer_norm(
    plan: &mut Plan,
    label: String,
    x: BufferId,
    affine: BufferId,
    y: BufferId,
    rows: u32,
    hidden: u32,
    eps: f32,
) {
    let params = layer_norm_kernel::Params { rows, hidden, eps };
    let grid = Grid::Fixed(layer_norm_kernel::grid(&params));
    plan.dispatch(
        label,
        &layer_norm_kernel::KERNEL,
        params,
        grid,
        &[x, affine, y],
    );
}

/// RMS norm of each q and k head of `qkv` [rows, stride], in place; `weights` is [2, head_dim].
pub fn head_norm(
    plan: &mut Plan,
    label: String,
    qkv: BufferId,
    weights: BufferId,
    params: head_norm_kernel::Params,
) {
    let grid = Grid::Fixed(head_norm_kernel::grid(&params));
    plan.dispatch(
        label,
        &head_norm_kernel::KERNEL,
        params,
        grid,
        &[weights, qkv],
    );
}
