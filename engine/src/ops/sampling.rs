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
    /// [sequences, window] recent tokens: that of a position at `position % window`
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
    let params = kernels::argmax_parts::Params { rows, vocab };
    let parts = kernels::argmax_parts::parts(vocab);
    let best = plan.scratch("best_of_parts", 2 * u64::from(rows) * u64::from(parts));
    let grid = Grid::Fixed(kernels::argmax_parts::grid(&params));
    plan.dispatch(
        "argmax_parts",
        &kernels::argmax_parts::KERNEL,
        params,
        grid,
        &[logits, best],
    );
    let SamplingBuffers {
        tokens,
        row_info,
        history,
        window,
    } = buffers;
    match sampling.temperature {
        None => {
            let params = kernels::argmax::Params {
                rows,
                parts,
                window,
            };
            let grid = Grid::Fixed(kernels::argmax::grid(&params));
            let bindings = [best, tokens, row_info, history];
            plan.dispatch("argmax", &kernels::argmax::KERNEL, params, grid, &bindings);
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
                window,
            };
            let grid = Grid::Fixed(kernels::sample::grid(&params));
            let bindings = [logits, best, tokens, row_info, history];
            plan.dispatch("sample", &kernels::sample::KERNEL, params, grid, &bindings);
        }
    }
}
