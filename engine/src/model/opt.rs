//! OPT ([arXiv 2205.01068](https://arxiv.org/abs/2205.01068)): learned positions, layer norms with bias, ReLU. Two variants:
//! norms before attention and MLP, and after them.

use super::Model;
use super::weights::{Part, TableWeights, WeightBuffers};
use crate::checkpoint::{ModelConfig, OptConfig};
use crate::ops::{
    self, Activations, AttentionInput, AttentionShape, EmbeddingTable, KvPools, Producer,
    Projection, WeightFormat,
};
use crate::plan::{BufferId, Plan};

/// The weights of one decoder layer. Norms are [2, hidden]: weight, then bias.
#[derive(Clone, Debug)]
pub struct Layer {
    pub self_attn_layer_norm: BufferId,
    pub qkv_proj: Projection,
    pub out_proj: Projection,
    pub final_layer_norm: BufferId,
    pub fc1: Projection,
    pub fc2: Projection,
}

/// What lies between embedding and head.
#[derive(Clone, Debug)]
pub struct Weights {
    pub config: OptConfig,
    /// [max_position_embeddings + 2, hidden] f32, in every mode: a row is added, not multiplied.
    /// Of a part with an embedding, as is `project_in`.
    pub embed_positions: Option<TableWeights>,
    /// Between the embedding's width and the decoder's, where they differ.
    pub project_in: Option<Projection>,
    pub layers: Vec<Layer>,
    /// Of a part with a head, as is `project_out`.
    pub final_layer_norm: Option<BufferId>,
    pub project_out: Option<Projection>,
}

impl Weights {
    pub(super) fn declare(
        config: &ModelConfig,
        opt: OptConfig,
        part: &Part,
        buffers: &mut WeightBuffers<'_>,
    ) -> Self {
        let positions = config.positions().filter(|_| part.embedding);
        let embed_positions =
            positions.map(|(name, shape)| buffers.table(name, WeightFormat::F32, shape));
        let project_in = config.project_in().filter(|_| part.embedding);
        let project_in = project_in.map(|linear| buffers.float_projection(linear));
        let layers = part.layers.clone().map(|layer| {
            let shape = config.layer(layer);
            let [qkv, out, fc1, fc2] = shape.groups;
            Layer {
                self_attn_layer_norm: buffers.layer_norm(&shape.attention_norm),
                qkv_proj: buffers.projection(qkv),
                out_proj: buffers.projection_after_attention(out, config),
                final_layer_norm: buffers.layer_norm(&shape.mlp_norm),
                fc1: buffers.projection(fc1),
                fc2: buffers.projection(fc2),
            }
        });
        let layers = layers.collect();
        let norm = config.last_norm().filter(|_| part.head);
        let final_layer_norm = norm.map(|norm| buffers.layer_norm(&norm));
        let project_out = config.project_out().filter(|_| part.head);
        let project_out = project_out.map(|linear| buffers.float_projection(linear));
        Self {
            config: opt,
            embed_positions,
            project_in,
            layers,
            final_layer_norm,
            project_out,
        }
    }
}

/// What all layers of a plan share: where rows are, and scratch.
struct Rows {
    rows: u32,
    input: AttentionInput,
    shape: AttentionShape,
    hidden: u32,
    qkv: BufferId,
    fc1: BufferId,
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
    let hidden = config.hidden_size;
    let x = model.residual(plan, rows);
    let activations = model.activations(plan, rows);
    if let (true, Some(table)) = (model.part.embedding, &model.weights.embed_tokens) {
        let table = &table.table;
        embed(weights, plan, table, tokens, input, x, rows, activations);
    }
    let mut scratch =
        |name: &str, features: u32| plan.scratch(name, u64::from(rows) * u64::from(features));
    let (qkv, fc1) = (
        scratch("qkv", 3 * hidden),
        scratch("fc1", config.intermediate_size),
    );
    let s = Rows {
        rows,
        input,
        shape: AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: 0,
        },
        hidden,
        qkv,
        fc1,
        activations,
    };

    for (i, layer) in model.part.layers.clone().zip(&weights.layers) {
        let pools = model.kv_pools[(i - model.part.layers.start) as usize];
        match weights.config.do_layer_norm_before {
            true => pre_norm_block(plan, i, layer, pools, &s, x),
            false => post_norm_block(plan, i, layer, pools, &s, x),
        }
    }
    x
}

/// Tokens and positions to `x`, [rows, hidden].
fn embed(
    weights: &Weights,
    plan: &mut Plan,
    table: &EmbeddingTable,
    tokens: BufferId,
    input: AttentionInput,
    x: BufferId,
    rows: u32,
    activations: Activations,
) {
    match &weights.project_in {
        None => ops::embedding(plan, table, tokens, x, rows),
        Some(project_in) => {
            let width = u64::from(table.hidden);
            let embedded = plan.scratch("embedded", u64::from(rows) * width);
            ops::embedding(plan, table, tokens, embedded, rows); // [rows, word_embed_proj_dim]
            ops::projection(
                plan,
                project_in,
                &Producer::Floats { x: embedded },
                x,
                rows,
                false,
                activations,
            );
        }
    } // [rows, hidden]
    if let Some(positions) = &weights.embed_positions {
        let offset = OptConfig::POSITION_OFFSET;
        ops::add_positions(plan, &positions.table, input.row_info, x, rows, offset);
    }
}

/// One decoder layer: attention and MLP of the normed `x`, each added to `x`.
fn pre_norm_block(
    plan: &mut Plan,
    index: u32,
    layer: &Layer,
    pools: KvPools,
    s: &Rows,
    x: BufferId,
) {
    let norm = |name: &str, affine: BufferId| Producer::LayerNorm {
        label: format!("layers.{index}.{name}"),
        from: x,
        affine,
        eps: OptConfig::LAYER_NORM_EPS,
    };
    let normed = norm("self_attn_layer_norm", layer.self_attn_layer_norm);
    attention(plan, index, layer, pools, s, &normed, x);
    let normed = norm("final_layer_norm", layer.final_layer_norm);
    mlp(plan, index, layer, s, &normed, x);
}

/// One decoder layer: attention and MLP, each added to what it was given, and then the norm.
fn post_norm_block(
    plan: &mut Plan,
    index: u32,
    layer: &Layer,
    pools: KvPools,
    s: &Rows,
    x: BufferId,
) {
    let words = u64::from(s.rows) * u64::from(s.hidden);
    let between = plan.shared_scratch("residual.mlp", words); // [rows, hidden]
    let norm = |plan: &mut Plan, name: &str, affine: BufferId, x: BufferId, y: BufferId| {
        let (label, eps) = (format!("layers.{index}.{name}"), OptConfig::LAYER_NORM_EPS);
        ops::layer_norm(plan, label, x, affine, y, s.rows, s.hidden, eps);
    };
    attention(plan, index, layer, pools, s, &Producer::Floats { x }, x);
    let affine = layer.self_attn_layer_norm;
    norm(plan, "self_attn_layer_norm", affine, x, between);
    let residual = Producer::Floats { x: between };
    mlp(plan, index, layer, s, &residual, between);
    norm(plan, "final_layer_norm", layer.final_layer_norm, between, x);
}

/// `y += out_proj(attention(qkv_proj(x)))`, [rows, hidden].
fn attention(
    plan: &mut Plan,
    index: u32,
    layer: &Layer,
    pools: KvPools,
    s: &Rows,
    x: &Producer,
    y: BufferId,
) {
    let label = |name: &str| format!("layers.{index}.self_attn{name}");
    let (rows, input, shape) = (s.rows, s.input, s.shape);
    ops::projection(plan, &layer.qkv_proj, x, s.qkv, rows, false, s.activations); // [rows, 3 * hidden]
    ops::kv_append(plan, label(".kv_append"), shape, input, s.qkv, pools, rows);
    let attended = Producer::Attention {
        label: label(""),
        shape,
        input,
        rope: None,
        qkv: s.qkv,
        pools,
    }; // [rows, hidden]
    ops::projection(
        plan,
        &layer.out_proj,
        &attended,
        y,
        rows,
        true,
        s.activations,
    ); // [rows, hidden]
}

/// `y += fc2(relu(fc1(x)))`, [rows, hidden].
fn mlp(plan: &mut Plan, index: u32, layer: &Layer, s: &Rows, x: &Producer, y: BufferId) {
    ops::projection(plan, &layer.fc1, x, s.fc1, s.rows, false, s.activations); // [rows, ffn_dim]
    let activated = Producer::Relu {
        label: format!("layers.{index}.act"),
        from: s.fc1,
    }; // [rows, ffn_dim]
    ops::projection(plan, &layer.fc2, &activated, y, s.rows, true, s.activations); // [rows, hidden]
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
    let (x, rows) = match index {
        None => (x, rows),
        Some((index, count)) => {
            let words = u64::from(count) * u64::from(config.hidden_size);
            let gathered = plan.scratch("gathered", words);
            ops::gather_rows(plan, index, x, gathered, count, config.hidden_size);
            (gathered, count)
        }
    };
    let quantized = model.activations(plan, rows);
    let mut last = match weights.final_layer_norm {
        None => Producer::Floats { x },
        Some(affine) => Producer::LayerNorm {
            label: "final_layer_norm".to_owned(),
            from: x,
            affine,
            eps: OptConfig::LAYER_NORM_EPS,
        },
    }; // [rows, hidden]
    if let Some(project_out) = &weights.project_out {
        let width = u64::from(config.embedding_size());
        let x = plan.scratch("head.projected", u64::from(rows) * width);
        ops::projection(plan, project_out, &last, x, rows, false, quantized);
        last = Producer::Floats { x }; // [rows, word_embed_proj_dim]
    }
    let logits = plan.scratch("logits", u64::from(rows) * u64::from(config.vocab_size));
    ops::projection(plan, model.lm_head(), &last, logits, rows, false, quantized); // [rows, vocab]
    logits
}
