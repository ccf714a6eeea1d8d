//! Choosing the next token, and making it the input of the next step.

use crate::plan::{BufferId, Grid, Plan};
use plateau_shaders::sampling as kernels;

/// What of the sampler's configuration reaches the kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// `None` is greedy.
    pub temperature: Option<f32>,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    /// 1 is none.
    pub repeat_penalty: f32,
    pub seed: u64,
}

/// The buffers of decoding, which the device itself carries from step to step.
#[derive(Clone, Copy, Debug)]
pub struct SamplingBuffers {
    /// `[rows]` the tokens that the next step takes
    pub tokens: BufferId,
    /// `[rows]` (sequence, position) of the next step
    pub row_info: BufferId,
    /// `[rows]` what was chosen
    pub chosen: BufferId,
    /// [sequences, window] recent tokens
    pub history: BufferId,
    pub window: u32,
}

/// Chooses a token for each row of `logits` [rows, vocab] and advances the rows by it.
pub fn sample_and_advance(
    plan: &mut Plan,
    sampling: &Sampling,
    logits: BufferId,
    buffers: SamplingBuffers,
    rows: u32,
    vocab: u32,
) {
    if sampling.repeat_penalty != 1.0 {
        let params = kernels::repeat_penalty::Params {
            rows,
            vocab,
            window: buffers.window,
            penalty: sampling.repeat_penalty,
            inv_penalty: 1.0 / sampling.repeat_penalty,
        };
        let grid = Grid::Fixed(kernels::repeat_penalty::grid(&params));
        let bindings = [buffers.row_info, buffers.history, logits];
        plan.dispatch(
            "repeat_penalty",
            &kernels::repeat_penalty::KERNEL,
            params,
            grid,
            &bindings,
        );
    }
    match sampling.temperature {
        None => {
            let params = kernels::argmax::Params { rows, vocab };
            let grid = Grid::Fixed(kernels::argmax::grid(&params));
            plan.dispatch(
                "argmax",
                &kernels::argmax::KERNEL,
                params,
                grid,
                &[logits, buffers.chosen],
            );
        }
        Some(temperature) => {
            let params = kernels::sample::Params {
                rows,
                vocab,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                inv_temp: 1.0 / temperature,
                seed_lo: sampling.seed as u32,
                seed_hi: (sampling.seed >> 32) as u32,
            };
            let grid = Grid::Fixed(kernels::sample::grid(&params));
            let bindings = [logits, buffers.row_info, buffers.chosen];
            plan.dispatch("sample", &kernels::sample::KERNEL, params, grid, &bindings);
        }
    }
    let params = kernels::advance::Params {
        rows,
        window: buffers.window,
    };
    let grid = Grid::Fixed(kernels::advance::grid(&params));
    let bindings = [
        buffers.chosen,
        buffers.tokens,
        buffers.row_info,
        buffers.history,
    ];
    plan.dispatch(
        "advance",
        &kernels::advance::KERNEL,
        params,
        grid,
        &bindings,
    );
}
