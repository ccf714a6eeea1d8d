//! OPT ([arXiv 2205.01068](https://arxiv.org/abs/2205.01068)): learned positions, layer norms with bias, ReLU. Two variants:
//! norms before attention and MLP, and after them.

use super::Model;
use super::weights::{Part, TableWeights, WeightBuffers};
use crate::checkpoint::{ModelConfig, OptConfig};
use crate::ops::{
    self, Activations, AttentionInput, AttentionShape, EmbeddingTable, KvPools, Projection,
    WeightFormat,
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
                out_proj: buffers.projection(out),
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
    ffn_dim: u32,
    normed: BufferId,
    qkv: BufferId,
    attended: BufferId,
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
    let (hidden, ffn_dim) = (config.hidden_size, config.intermediate_size);
    let x = model.residual(plan, rows);
    let activations = model.activations(plan, rows);
    if let (true, Some(table)) = (model.part.embedding, &model.weights.embed_tokens) {
        let table = &table.table;
        embed(weights, plan, table, tokens, input, x, rows, activations);
    }
    let mut scratch =
        |name: &str, features: u32| plan.scratch(name, u64::from(rows) * u64::from(features));
    let (normed, qkv) = (scratch("normed", hidden), scratch("qkv", 3 * hidden));
    let (attended, fc1) = (scratch("attended", hidden), scratch("fc1", ffn_dim));
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
        ffn_dim,
        normed,
        qkv,
        attended,
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
                &ops::Producer::Floats,
                embedded,
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
    norm(
        plan,
        index,
        "self_attn_layer_norm",
        layer.self_attn_layer_norm,
        s,
        x,
        s.normed,
    );
    attention(plan, index, layer, pools, s, s.normed, x);
    norm(
        plan,
        index,
        "final_layer_norm",
        layer.final_layer_norm,
        s,
        x,
        s.normed,
    );
    mlp(plan, index, layer, s, s.normed, x);
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
    attention(plan, index, layer, pools, s, x, x);
    norm(
        plan,
        index,
        "self_attn_layer_norm",
        layer.self_attn_layer_norm,
        s,
        x,
        s.normed,
    );
    mlp(plan, index, layer, s, s.normed, s.normed);
    norm(
        plan,
        index,
        "final_layer_norm",
        layer.final_layer_norm,
        s,
        s.normed,
        x,
    );
}

/// `y = layer_norm(x)`, [rows, hidden].
fn norm(
    plan: &mut Plan,
    index: u32,
    name: &str,
    affine: BufferId,
    s: &Rows,
    x: BufferId,
    y: BufferId,
) {
    let label = format!("layers.{index}.{name}");
    let eps = OptConfig::LAYER_NORM_EPS;
    ops::layer_norm(plan, label, x, affine, y, s.rows, s.hidden, eps);
}

/// `y += out_proj(attention(qkv_proj(x)))`, [rows, hidden].
fn attention(
    plan: &mut Plan,
    index: u32,
    layer: &Layer,
    pools: KvPools,
    s: &Rows,
    x: BufferId,
    y: BufferId,
) {
    let label = |name: &str| format!("layers.{index}.self_attn{name}");
    let (rows, input, shape) = (s.rows, s.input, s.shape);
    ops::projection(
        plan,
        &layer.qkv_proj,
        &ops::Producer::Floats,
        x,
        s.qkv,
        rows,
        false,
        s.activations,
    ); // [rows, 3 * hidden]
    ops::kv_append(plan, label(".kv_append"), shape, input, s.qkv, pools, rows);
    ops::attention(
        plan,
        label(""),
        shape,
        input,
        s.qkv,
        pools,
        s.attended,
        rows,
    ); // [rows, hidden]
    ops::projection(
        plan,
        &layer.out_proj,
        &ops::Producer::Floats,
        s.attended,
        y,
        rows,
        true,
        s.activations,
    ); // [rows, hidden]
}

/// `y += fc2(relu(fc1(x)))`, [rows, hidden].
fn mlp(plan: &mut Plan, index: u32, layer: &Layer, s: &Rows, x: BufferId, y: BufferId) {
    ops::projection(
        plan,
        &layer.fc1,
        &ops::Producer::Floats,
        x,
        s.fc1,
        s.rows,
        false,
        s.activations,
    ); // [rows, ffn_dim]
    ops::relu(
        plan,
        format!("layers.{index}.act"),
        s.fc1,
        s.rows,
        s.ffn_dim,
    );
    ops::projection(
        plan,
        &layer.fc2,
        &ops::Producer::Floats,
        s.fc1,
        y,
        s.rows,
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
    let (mut x, rows) = match index {
        None => (x, rows),
        Some((index, count)) => {
            let gathered = plan.scratch("gathered", u64::from(count) * u64::from(hidden));
            ops::gather_rows(plan, index, x, gathered, count, hidden);
            (gathered, count)
        }
    };
    let quantized = model.activations(plan, rows);
    if let Some(affine) = weights.final_layer_norm {
        let normed = plan.scratch("head.normed", u64::from(rows) * u64::from(hidden));
        let (label, eps) = ("final_layer_norm".to_owned(), OptConfig::LAYER_NORM_EPS);
        ops::layer_norm(plan, label, x, affine, normed, rows, hidden, eps);
        x = normed;
    }
    if let Some(project_out) = &weights.project_out {
        let width = u64::from(config.embedding_size());
        let projected = plan.scratch("head.projected", u64::from(rows) * width);
        ops::projection(
            plan,
            project_out,
            &ops::Producer::Floats,
            x,
            projected,
            rows,
            false,
            quantized,
        );
        x = projected; // [rows, word_embed_proj_dim]
    }
    let logits = plan.scratch("logits", u64::from(rows) * u64::from(config.vocab_size));
    ops::projection(
        plan,
        model.lm_head(),
        &ops::Producer::Floats,
        x,
        logits,
        rows,
        false,
        quantized,
    ); // [rows, vocab]
    logits
}
