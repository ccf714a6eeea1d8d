//! The Llama family: Llama, Mistral, Qwen2, Qwen3. What differs between them is in their weights and their configuration.

use super::Model;
use super::weights::{Part, WeightBuffers};
use crate::checkpoint::{LlamaConfig, ModelConfig};
use crate::ops::{
    self, Activations, AttentionInput, AttentionShape, KvPools, Producer, Projection,
};
use crate::plan::{BufferId, Plan};
use plateau_shaders::norm::head_norm;

/// The weights of one decoder layer.
#[derive(Clone, Debug)]
pub struct Layer {
    pub input_layernorm: BufferId,
    pub qkv_proj: Projection,
    /// q_norm and k_norm (Qwen3).
    pub qk_norm: Option<BufferId>,
    pub o_proj: Projection,
    pub post_attention_layernorm: BufferId,
    pub gate_up_proj: Projection,
    pub down_proj: Projection,
}

/// What lies between embedding and head.
#[derive(Clone, Debug)]
pub struct Weights {
    pub config: LlamaConfig,
    pub layers: Vec<Layer>,
    /// Of a part with a head.
    pub norm: Option<BufferId>,
}

impl Weights {
    pub(super) fn declare(
        config: &ModelConfig,
        llama: LlamaConfig,
        part: &Part,
        buffers: &mut WeightBuffers<'_>,
    ) -> Self {
        let layers = part.layers.clone().map(|layer| {
            let shape = config.layer(layer);
            let [qkv, o, gate_up, down] = shape.groups;
            Layer {
                input_layernorm: buffers.rms_norm(&[shape.attention_norm]),
                qkv_proj: buffers.projection(qkv),
                qk_norm: shape.qk_norm.map(|norms| buffers.rms_norm(&norms)),
                o_proj: buffers.projection_after_attention(o, config),
                post_attention_layernorm: buffers.rms_norm(&[shape.mlp_norm]),
                gate_up_proj: buffers.projection(gate_up),
                down_proj: buffers.projection_after_gate(down),
            }
        });
        let layers = layers.collect();
        let norm = config.last_norm().filter(|_| part.head);
        Self {
            config: llama,
            layers,
            norm: norm.map(|norm| buffers.rms_norm(&[norm])),
        }
    }
}

/// The scratch that all layers of a plan share.
struct Scratch {
    qkv: BufferId,
    gate_up: BufferId,
    activations: Activations,
}

/// Embedding and decoder layers, as far as the part has them: the residual stream, [rows, hidden].
pub(super) fn decoder(
    model: &Model,
    weights: &Weights,
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
        qkv: plan.scratch("qkv", n * u64::from(heads + 2 * kv)),
        gate_up: plan.scratch("gate_up", n * 2 * u64::from(config.intermediate_size)),
        activations: model.activations(plan, rows),
    };
    let x = model.residual(plan, rows);
    if let (true, Some(table)) = (model.part.embedding, &model.weights.embed_tokens) {
        ops::embedding(plan, &table.table, tokens, x, rows); // [rows, hidden]
    }
    for (i, layer) in model.part.layers.clone().zip(&weights.layers) {
        let shape = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: config.windows[i as usize].unwrap_or(0),
        };
        block(
            model,
            weights.config,
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
    llama: LlamaConfig,
    plan: &mut Plan,
    index: u32,
    layer: &Layer,
    shape: AttentionShape,
    pools: KvPools,
    input: AttentionInput,
    s: &Scratch,
    x: BufferId,
    rows: u32,
) {
    let eps = llama.rms_norm_eps;
    let label = |name: &str| format!("layers.{index}.{name}");

    let normed = Producer::RmsNorm {
        label: label("input_layernorm"),
        from: x,
        weight: layer.input_layernorm,
        eps,
    };
    ops::projection(
        plan,
        &layer.qkv_proj,
        &normed,
        s.qkv,
        rows,
        false,
        s.activations,
    ); // [rows, (heads + 2 kv_heads) * head_dim]
    if let Some(qk_norm) = layer.qk_norm {
        let params = head_norm::Params {
            rows,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            stride: shape.stride(),
            eps,
        };
        ops::head_norm(plan, label("self_attn.qk_norm"), s.qkv, qk_norm, params);
    }
    let rotates = ops::rotates(plan, shape, input, pools);
    if !rotates {
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
    }
    let attended = Producer::Attention {
        label: label("self_attn"),
        shape,
        input,
        rope: rotates.then_some(model.step.rope_table),
        qkv: s.qkv,
        pools,
    }; // [rows, heads * head_dim]
    ops::projection(plan, &layer.o_proj, &attended, x, rows, true, s.activations); // [rows, hidden]

    let normed = Producer::RmsNorm {
        label: label("post_attention_layernorm"),
        from: x,
        weight: layer.post_attention_layernorm,
        eps,
    };
    let activated = ops::gated(
        plan,
        label("mlp.act"),
        &layer.gate_up_proj,
        &normed,
        &layer.down_proj,
        s.gate_up,
        rows,
        s.activations,
    ); // [rows, intermediate]
    ops::projection(
        plan,
        &layer.down_proj,
        &activated,
        x,
        rows,
        true,
        s.activations,
    ); // [rows, hidden]
}

/// Final norm and head: logits of all rows of `x`, or of those that `index` names; [rows or count, vocab].
pub(super) fn head(
    model: &Model,
    weights: &Weights,
    plan: &mut Plan,
    x: BufferId,
    rows: u32,
    index: Option<(BufferId, u32)>,
) -> BufferId {
    let config = &model.config;
    let hidden = config.hidden_size;
    let norm = weights
        .norm
        .expect("logits are asked of a part with a head");
    let (x, rows) = match index {
        None => (x, rows),
        Some((index, count)) => {
            let gathered = plan.scratch("gathered", u64::from(count) * u64::from(hidden));
            ops::gather_rows(plan, index, x, gathered, count, hidden);
            (gathered, count)
        }
    };
    let normed = Producer::RmsNorm {
        label: "norm".to_owned(),
        from: x,
        weight: norm,
        eps: weights.config.rms_norm_eps,
    };
    let logits = plan.scratch("logits", u64::from(rows) * u64::from(config.vocab_size));
    let quantized = model.activations(plan, rows);
    ops::projection(
        plan,
        model.lm_head(),
        &normed,
        logits,
        rows,
        false,
        quantized,
    ); // [rows, vocab]
    logits
}
