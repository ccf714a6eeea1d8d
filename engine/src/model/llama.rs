//! The Llama family: Llama, Mistral, Qwen2, Qwen3. What differs between them is in their weights and their configuration.

use super::{DecoderLayer, Model};
use crate::ops::{self, Activations, AttentionInput, AttentionShape, KvPools};
use crate::plan::{BufferId, Plan};
use plateau_shaders::{norm::head_norm, padded};

/// The scratch that all layers of a plan share.
struct Scratch {
    normed: BufferId,
    qkv: BufferId,
    attended: BufferId,
    gate_up: BufferId,
    activated: BufferId,
    activations: Activations,
}

/// Embedding and decoder layers, as far as the part has them: the residual stream, [rows, hidden].
pub(super) fn decoder(
    model: &Model,
    plan: &mut Plan,
    tokens: BufferId,
    input: AttentionInput,
    rows: u32,
) -> BufferId {
    let config = &model.config;
    let n = u64::from(rows);
    let heads = config.num_attention_heads * config.head_dim;
    let kv = config.num_key_value_heads * config.head_dim;
    let scratch = Scratch {
        normed: plan.scratch("normed", n * u64::from(config.hidden_size)),
        qkv: plan.scratch("qkv", n * u64::from(heads + 2 * kv)),
        attended: plan.scratch("attended", n * u64::from(heads)),
        gate_up: plan.scratch("gate_up", n * 2 * u64::from(config.intermediate_size)),
        activated: plan.scratch("activated", n * u64::from(config.intermediate_size)),
        activations: activations(model, plan, rows),
    };
    let x = model
        .step
        .hidden
        .unwrap_or_else(|| plan.scratch("residual", n * u64::from(config.hidden_size)));
    if let (true, Some(table)) = (model.part.embedding, &model.weights.embed_tokens) {
        ops::embedding(plan, &table.table, tokens, x, rows); // [rows, hidden]
    }
    for (i, layer) in model.part.layers.clone().zip(&model.weights.layers) {
        let shape = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: config.windows[i as usize].unwrap_or(0),
        };
        block(
            model,
            plan,
            i,
            layer,
            shape,
            model.kv_pools[(i - model.part.layers.start) as usize],
            input,
            &scratch,
            x,
            rows,
        );
    }
    x
}

/// One decoder layer: attention and MLP, each added to `x`.
fn block(
    model: &Model,
    plan: &mut Plan,
    index: u32,
    layer: &DecoderLayer,
    shape: AttentionShape,
    pools: KvPools,
    input: AttentionInput,
    s: &Scratch,
    x: BufferId,
    rows: u32,
) {
    let config = &model.config;
    let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
    let label = |name: &str| format!("layers.{index}.{name}");

    ops::rms_norm(
        plan,
        label("input_layernorm"),
        x,
        layer.input_layernorm.buffer,
        s.normed,
        rows,
        hidden,
        eps,
    );
    ops::projection(
        plan,
        &layer.qkv_proj,
        s.normed,
        s.qkv,
        rows,
        false,
        s.activations,
    ); // [rows, (heads + 2 kv_heads) * head_dim]
    if let Some(qk_norm) = &layer.qk_norm {
        let params = head_norm::Params {
            rows,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            stride: shape.stride(),
            eps,
        };
        ops::head_norm(
            plan,
            label("self_attn.qk_norm"),
            s.qkv,
            qk_norm.buffer,
            params,
        );
    }
    ops::rope(
        plan,
        label("self_attn.rope"),
        shape,
        input.row_info,
        model.step.rope_table,
        s.qkv,
        rows,
    );
    ops::kv_append(
        plan,
        label("self_attn.kv_append"),
        shape,
        input,
        s.qkv,
        pools,
        rows,
    );
    ops::attention(
        plan,
        label("self_attn"),
        shape,
        input,
        s.qkv,
        pools,
        s.attended,
        rows,
    ); // [rows, heads * head_dim]
    ops::projection(
        plan,
        &layer.o_proj,
        s.attended,
        x,
        rows,
        true,
        s.activations,
    ); // [rows, hidden]

    let norm = layer.post_attention_layernorm.buffer;
    ops::rms_norm(
        plan,
        label("post_attention_layernorm"),
        x,
        norm,
        s.normed,
        rows,
        hidden,
        eps,
    );
    ops::projection(
        plan,
        &layer.gate_up_proj,
        s.normed,
        s.gate_up,
        rows,
        false,
        s.activations,
    ); // [rows, 2 * intermediate]
    ops::silu_mul(
        plan,
        label("mlp.act"),
        s.gate_up,
        s.activated,
        rows,
        config.intermediate_size,
    ); // [rows, intermediate]
    ops::projection(
        plan,
        &layer.down_proj,
        s.activated,
        x,
        rows,
        true,
        s.activations,
    ); // [rows, hidden]
}

/// Final norm and head: logits of all rows of `x`, or of those that `index` names; [rows or count, vocab].
pub(super) fn head(
    model: &Model,
    plan: &mut Plan,
    x: BufferId,
    rows: u32,
    index: Option<(BufferId, u32)>,
) -> BufferId {
    let config = &model.config;
    let hidden = config.hidden_size;
    let weights = model.weights.head.as_ref();
    let weights = weights.expect("logits are asked of a part with a head");
    let (x, rows) = match index {
        None => (x, rows),
        Some((index, count)) => {
            let gathered = plan.scratch("gathered", u64::from(count) * u64::from(hidden));
            ops::gather_rows(plan, index, x, gathered, count, hidden);
            (gathered, count)
        }
    };
    let normed = plan.scratch("head.normed", u64::from(rows) * u64::from(hidden));
    let norm = weights.norm.buffer;
    ops::rms_norm(
        plan,
        "norm".to_owned(),
        x,
        norm,
        normed,
        rows,
        hidden,
        config.rms_norm_eps,
    );
    let logits = plan.scratch("logits", u64::from(rows) * u64::from(config.vocab_size));
    let quantized = activations(model, plan, rows);
    ops::projection(
        plan,
        &weights.lm_head,
        normed,
        logits,
        rows,
        false,
        quantized,
    ); // [rows, vocab]
    logits
}

/// Room for the quantized input of any projection.
fn activations(model: &Model, plan: &mut Plan, rows: u32) -> Activations {
    let linears = model.weights.linears().map(|l| l.linear.in_features);
    let widest = linears.chain([model.config.hidden_size]).max().unwrap_or(0);
    Activations {
        x_q: plan.scratch("x_q", u64::from(rows) * u64::from(padded(widest) / 4)),
        x_scale: plan.scratch("x_scale", u64::from(rows)),
    }
}
