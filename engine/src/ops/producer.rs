//! What makes the input of a projection: as floats, or at once as the integers that its linears read.

use super::{StaticInput, rms_norm, silu_mul};
use crate::plan::{BufferId, Grid, Plan};
use plateau_shaders::{elementwise, norm, quantize};

/// The last operation before a projection. It runs where the projection says, once for each form of x that its linears read.
#[derive(Clone, Debug)]
pub enum Producer {
    /// x is there as floats.
    Floats,
    /// x = `rms_norm(from)`, from is [rows, in_features].
    RmsNorm {
        label: String,
        from: BufferId,
        weight: BufferId,
        eps: f32,
    },
    /// x = `silu(gate) * up`, gate_up is [rows, 2 * in_features].
    SiluMul { label: String, gate_up: BufferId },
}

impl Producer {
    /// Makes x, [rows, features] f32.
    pub(super) fn floats(&self, plan: &mut Plan, x: BufferId, rows: u32, features: u32) {
        match self {
            Self::Floats => {}
            Self::RmsNorm {
                label,
                from,
                weight,
                eps,
            } => rms_norm(plan, label.clone(), *from, *weight, x, rows, features, *eps),
            Self::SiluMul { label, gate_up } => {
                silu_mul(plan, label.clone(), *gate_up, x, rows, features);
            }
        }
    }

    /// Makes the flat integers of x with no float in memory, x_q is [rows, padded(flat_features) / 4] u32; says whether there is
    /// a kernel for it. Where there is none nothing is done.
    pub(super) fn flat(
        &self,
        plan: &mut Plan,
        input: &StaticInput,
        map: BufferId,
        x_q: BufferId,
        rows: u32,
        features: u32,
    ) -> bool {
        let quantize = input.params(rows, features);
        match self {
            Self::Floats => return false,
            Self::RmsNorm {
                label,
                from,
                weight,
                eps,
            } => {
                let params = norm::rms_norm_flat::Params {
                    rows,
                    features,
                    eps: *eps,
                    flat_features: quantize.flat_features,
                    q_max: quantize.q_max,
                    inv_scale: quantize.inv_scale,
                };
                let grid = Grid::Fixed(norm::rms_norm_flat::grid(&params));
                plan.dispatch(
                    label.clone(),
                    &norm::rms_norm_flat::KERNEL,
                    params,
                    grid,
                    &[*from, *weight, map, x_q],
                );
            }
            Self::SiluMul { label, gate_up } => {
                let grid = Grid::Fixed(elementwise::silu_mul_flat::grid(&quantize));
                plan.dispatch(
                    label.clone(),
                    &elementwise::silu_mul_flat::KERNEL,
                    quantize,
                    grid,
                    &[*gate_up, map, x_q],
                );
            }
        }
        true
    }
}

/// The flat integers of floats that are in memory.
pub(super) fn flatten_quantize(
    plan: &mut Plan,
    label: String,
    input: &StaticInput,
    x: BufferId,
    map: BufferId,
    x_q: BufferId,
    rows: u32,
    features: u32,
) {
    let params = input.params(rows, features);
    let grid = Grid::Fixed(quantize::flatten_quantize::grid(&params));
    plan.dispatch(
        label,
        &quantize::flatten_quantize::KERNEL,
        params,
        grid,
        &[x, map, x_q],
    );
}

impl StaticInput {
    fn params(&self, rows: u32, features: u32) -> quantize::flatten_quantize::Params {
        quantize::flatten_quantize::Params {
            rows,
            features,
            flat_features: self.flat_features,
            q_max: self.bits.q_max(),
            inv_scale: 1.0 / self.scale,
        }
    }
}
