//! What makes the input of a projection: as floats, or at once as the integers that its linears read.

use super::attention::{attention, attention_flat};
use super::{
    AttentionInput, AttentionShape, KvPools, StaticInput, layer_norm, relu, rms_norm, silu_mul,
};
use crate::plan::{BufferId, Grid, Plan};
use plateau_shaders::{Kernel, elementwise, norm, quantize};

/// The last operation before a projection of x [rows, features]. It runs where the projection says, once for each form of x that
/// its linears read.
#[derive(Clone, Debug)]
pub enum Producer {
    /// x is there as floats.
    Floats { x: BufferId },
    /// x = `rms_norm(from)`, from is [rows, features].
    RmsNorm {
        label: String,
        from: BufferId,
        weight: BufferId,
        eps: f32,
    },
    /// x = `layer_norm(from)`, from is [rows, features], affine is [2, features].
    LayerNorm {
        label: String,
        from: BufferId,
        affine: BufferId,
        eps: f32,
    },
    /// x = `silu(gate) * up`, gate_up is [rows, 2 * features].
    SiluMul { label: String, gate_up: BufferId },
    /// x = `max(from, 0)`, from is [rows, features]. Floats are made in place.
    Relu { label: String, from: BufferId },
    /// The flat integers of x, which has a static input, are made already.
    Integers,
    /// x = attention of the rows of `qkv`, features are heads * head_dim.
    Attention {
        label: String,
        shape: AttentionShape,
        input: AttentionInput,
        /// The table, where attention is to rotate the heads and append the keys itself.
        rope: Option<BufferId>,
        qkv: BufferId,
        pools: KvPools,
    },
}

impl Producer {
    /// Makes x [rows, features] f32, and says where. Producers of one kind share a buffer, so x is read before the next one runs.
    pub(super) fn floats(&self, plan: &mut Plan, rows: u32, features: u32) -> BufferId {
        let words = u64::from(rows) * u64::from(features);
        match self {
            Self::Floats { x } => *x,
            Self::RmsNorm {
                label,
                from,
                weight,
                eps,
            } => {
                let x = plan.shared_scratch("normed", words);
                rms_norm(plan, label.clone(), *from, *weight, x, rows, features, *eps);
                x
            }
            Self::LayerNorm {
                label,
                from,
                affine,
                eps,
            } => {
                let x = plan.shared_scratch("normed", words);
                layer_norm(plan, label.clone(), *from, *affine, x, rows, features, *eps);
                x
            }
            Self::SiluMul { label, gate_up } => {
                let x = plan.shared_scratch("activated", words);
                silu_mul(plan, label.clone(), *gate_up, x, rows, features);
                x
            }
            Self::Relu { label, from } => {
                relu(plan, label.clone(), *from, rows, features);
                *from
            }
            Self::Attention {
                label,
                shape,
                input,
                rope,
                qkv,
                pools,
            } => {
                let x = plan.shared_scratch("attended", words);
                let label = label.clone();
                attention(plan, label, *shape, *input, *rope, *qkv, *pools, x, rows);
                x
            }
            Self::Integers => unreachable!("its linear has a static input"),
        }
    }

    /// Makes the flat integers of x with no float in memory, x_q is [rows, padded(flat_features) / 4] u32; says whether there is
    /// a kernel for it. Where there is none nothing is done.
    pub(super) fn flat(
        &self,
        plan: &mut Plan,
        flat: &StaticInput,
        map: BufferId,
        x_q: BufferId,
        rows: u32,
        features: u32,
    ) -> bool {
        let quantize = flat.params(rows, features);
        match self {
            Self::Floats { .. } => return false,
            Self::Integers => {}
            Self::RmsNorm {
                label,
                from,
                weight,
                eps,
            } => {
                let kernel = &norm::rms_norm_flat::KERNEL;
                let bindings = [*from, *weight, map, x_q];
                norm_flat(plan, label, kernel, *eps, quantize, bindings);
            }
            Self::LayerNorm {
                label,
                from,
                affine,
                eps,
            } => {
                let kernel = &norm::layer_norm_flat::KERNEL;
                let bindings = [*from, *affine, map, x_q];
                norm_flat(plan, label, kernel, *eps, quantize, bindings);
            }
            Self::SiluMul {
                label,
                gate_up: from,
            } => {
                let kernel = &elementwise::silu_mul_flat::KERNEL;
                let grid = Grid::Fixed(quantize::flatten_quantize::grid(&quantize));
                plan.dispatch(label.clone(), kernel, quantize, grid, &[*from, map, x_q]);
            }
            Self::Relu { label, from } => {
                // The relu of floats that are made already is what they are.
                let kernel = &elementwise::relu_flat::KERNEL;
                let grid = Grid::Fixed(quantize::flatten_quantize::grid(&quantize));
                plan.dispatch(label.clone(), kernel, quantize, grid, &[*from, map, x_q]);
            }
            Self::Attention {
                label,
                shape,
                input,
                rope,
                qkv,
                pools,
            } => {
                if !flat.has_runs_of(shape.heads) {
                    return false;
                }
                attention_flat(
                    plan,
                    label.clone(),
                    *shape,
                    *input,
                    *rope,
                    *qkv,
                    *pools,
                    flat,
                    map,
                    x_q,
                    rows,
                );
            }
        }
        true
    }
}

fn norm_flat(
    plan: &mut Plan,
    label: &str,
    kernel: &'static Kernel,
    eps: f32,
    quantize: quantize::flatten_quantize::Params,
    bindings: [BufferId; 4],
) {
    let params = norm::rms_norm_flat::Params {
        rows: quantize.rows,
        features: quantize.features,
        eps,
        flat_features: quantize.flat_features,
        q_max: quantize.q_max,
        inv_scale: quantize.inv_scale,
    };
    let grid = Grid::Fixed(norm::rms_norm_flat::grid(&params));
    plan.dispatch(label, kernel, params, grid, &bindings);
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
