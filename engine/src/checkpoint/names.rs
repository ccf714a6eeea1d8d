//! The tensors that a configuration asks for: names as in Hugging Face's checkpoints, and their shapes. The one place that
//! knows them, a function for each graph.

use super::config::{Architecture, LlamaConfig, ModelConfig, OptConfig};

pub const HEAD: &str = "lm_head";

/// One linear. The checkpoint's names are this one and a suffix: `.weight`, `.bias`, `.qweight` …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub in_features: u32,
    pub out_features: u32,
    pub bias: bool,
}

/// Linears of one layer that read the same input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearGroup {
    /// In the order in which their outputs stand side by side.
    pub linears: Vec<LinearShape>,
    pub in_features: u32,
    pub fold: Fold,
}

/// What produces a group's input, as far as a scale of each channel can be folded into it without changing the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Nothing that a scale could go into: the residual stream, or a norm without parameters.
    None,
    /// A norm: its weight, and its bias if it has one.
    Norm {
        weight: String,
        bias: Option<String>,
    },
    /// The rows of a linear, without `.weight`, through operations that keep a positive factor of a channel: attention (v), the
    /// product with the gate (up), ReLU (fc1).
    Linear {
        name: String,
        bias: bool,
        /// Rows are heads of values, which one or more query heads read.
        per_head: bool,
    },
}

/// A norm's vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormShape {
    /// Such as `model.layers.0.input_layernorm`.
    pub name: String,
    pub len: u32,
    /// Whether there is a `.weight`, and a `.bias`.
    pub weight: bool,
    pub bias: bool,
}

impl NormShape {
    fn tensors(&self) -> impl Iterator<Item = (String, u32)> {
        let names = [(self.weight, "weight"), (self.bias, "bias")];
        names
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, suffix)| (format!("{}.{suffix}", self.name), self.len))
    }

    fn fold(&self) -> Fold {
        if !self.weight {
            return Fold::None;
        }
        Fold::Norm {
            weight: format!("{}.weight", self.name),
            bias: self.bias.then(|| format!("{}.bias", self.name)),
        }
    }
}

/// The tensors of one decoder layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Of attention: before it, or after it in OPT's post-norm variant.
    pub attention_norm: NormShape,
    /// Of each head of q, and of k.
    pub qk_norm: Option<[NormShape; 2]>,
    /// Of the MLP.
    pub mlp_norm: NormShape,
    /// Attention's input and output, the MLP's input and output.
    pub groups: [LinearGroup; 4],
}

impl LayerShape {
    fn norms(&self) -> impl Iterator<Item = &NormShape> {
        [&self.attention_norm]
            .into_iter()
            .chain(self.qk_norm.iter().flatten())
            .chain([&self.mlp_norm])
    }
}

impl ModelConfig {
    /// The tensors of a decoder layer.
    pub fn layer(&self, layer: u32) -> LayerShape {
        match &self.architecture {
            Architecture::Llama(llama) => self.llama_layer(llama, layer),
            Architecture::Opt(opt) => self.opt_layer(opt, layer),
        }
    }

    /// The linears of a decoder layer by what they share, in the order in which a token meets them.
    pub fn layer_groups(&self, layer: u32) -> Vec<LinearGroup> {
        self.layer(layer).groups.into()
    }

    /// The norm after the last layer, where there is one.
    pub fn last_norm(&self) -> Option<NormShape> {
        let (name, bias, weight) = match &self.architecture {
            Architecture::Llama(_) => ("model.norm", false, true),
            Architecture::Opt(opt) if opt.final_layer_norm => {
                let affine = opt.layer_norm_elementwise_affine;
                ("model.decoder.final_layer_norm", affine, affine)
            }
            Architecture::Opt(_) => return None,
        };
        Some(NormShape {
            name: name.to_owned(),
            len: self.hidden_size,
            weight,
            bias,
        })
    }

    /// Every linear of the decoder's layers, in the order in which a token meets them. The head is not one of them.
    pub fn linears(&self) -> Vec<LinearShape> {
        (0..self.num_hidden_layers)
            .flat_map(|layer| self.layer_linears(layer))
            .collect()
    }

    /// The linears of layer `layer`, in the order in which a token meets them.
    pub fn layer_linears(&self, layer: u32) -> Vec<LinearShape> {
        let groups = self.layer(layer).groups.into_iter();
        groups.flat_map(|group| group.linears).collect()
    }

    /// Every weight and bias of a norm with its length.
    pub fn norms(&self) -> Vec<(String, u32)> {
        (0..self.num_hidden_layers)
            .flat_map(|layer| self.layer_norms(layer))
            .chain(self.final_norms())
            .collect()
    }

    /// The norms' weights and biases of layer `layer`, with their lengths.
    pub fn layer_norms(&self, layer: u32) -> Vec<(String, u32)> {
        let layer = self.layer(layer);
        layer.norms().flat_map(NormShape::tensors).collect()
    }

    /// The weight and bias of the norm after the last layer, with their lengths.
    pub fn final_norms(&self) -> Vec<(String, u32)> {
        self.last_norm()
            .iter()
            .flat_map(NormShape::tensors)
            .collect()
    }

    /// The embedding, and the head where it has a table of its own: `[vocab_size, embedding_size]` each.
    pub fn tables(&self) -> &'static [&'static str] {
        match (&self.architecture, self.tie_word_embeddings) {
            (Architecture::Llama(_), true) => &["model.embed_tokens"],
            (Architecture::Llama(_), false) => &["model.embed_tokens", HEAD],
            (Architecture::Opt(_), true) => &["model.decoder.embed_tokens"],
            (Architecture::Opt(_), false) => &["model.decoder.embed_tokens", HEAD],
        }
    }

    /// The keys and the values of a stored prefix in layer `layer`: [tokens, kv_heads * head_dim], keys as they lie in the cache.
    pub fn kv_prefix_tensors(&self, layer: u32) -> [String; 2] {
        let layers = match &self.architecture {
            Architecture::Llama(_) => "model.layers",
            Architecture::Opt(_) => "model.decoder.layers",
        };
        ["k_prefix", "v_prefix"].map(|name| format!("{layers}.{layer}.self_attn.{name}"))
    }

    /// The decoder's output for a stored first token, before the last norm: [1, hidden].
    pub fn hidden_prefix_tensor(&self) -> &'static str {
        match &self.architecture {
            Architecture::Llama(_) => "model.hidden_prefix",
            Architecture::Opt(_) => "model.decoder.hidden_prefix",
        }
    }

    /// The matrices that stay float in a quantized model, without `.weight`, [rows, columns]: few weights, of which each
    /// output has its own.
    pub fn float_matrices(&self) -> Vec<(&'static str, [u32; 2])> {
        let positions = self.positions();
        let projections = [self.project_in(), self.project_out()];
        let projections = projections.into_iter().flatten();
        positions.into_iter().chain(projections).collect()
    }

    /// The table of learned positions.
    pub fn positions(&self) -> Option<(&'static str, [u32; 2])> {
        match &self.architecture {
            Architecture::Llama(_) => None,
            Architecture::Opt(_) => {
                let rows = self.max_position_embeddings + OptConfig::POSITION_OFFSET;
                Some(("model.decoder.embed_positions", [rows, self.hidden_size]))
            }
        }
    }

    /// The linear, without bias, from the embedding's width to the decoder's.
    pub fn project_in(&self) -> Option<(&'static str, [u32; 2])> {
        let shape = [self.hidden_size, self.embedding_size()];
        (shape[0] != shape[1]).then_some(("model.decoder.project_in", shape))
    }

    /// The linear, without bias, from the decoder's width to the head's.
    pub fn project_out(&self) -> Option<(&'static str, [u32; 2])> {
        let shape = [self.embedding_size(), self.hidden_size];
        (shape[0] != shape[1]).then_some(("model.decoder.project_out", shape))
    }

    fn llama_layer(&self, llama: &LlamaConfig, layer: u32) -> LayerShape {
        let prefix = format!("model.layers.{layer}");
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let (query, key) = (heads * self.head_dim, kv_heads * self.head_dim);
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let norm = |name: &str, len| NormShape {
            name: format!("{prefix}.{name}"),
            len,
            weight: true,
            bias: false,
        };
        let head_norm = |name: &str| norm(name, self.head_dim);
        let linear = |name: &str, in_features, out_features, bias| LinearShape {
            name: format!("{prefix}.{name}"),
            in_features,
            out_features,
            bias,
        };

        let attention_norm = norm("input_layernorm", hidden);
        let mlp_norm = norm("post_attention_layernorm", hidden);
        let qkv = vec![
            linear("self_attn.q_proj", hidden, query, self.qkv_bias),
            linear("self_attn.k_proj", hidden, key, self.qkv_bias),
            linear("self_attn.v_proj", hidden, key, self.qkv_bias),
        ];
        let o = vec![linear("self_attn.o_proj", query, hidden, self.output_bias)];
        let gate_up = vec![
            linear("mlp.gate_proj", hidden, intermediate, self.mlp_bias),
            linear("mlp.up_proj", hidden, intermediate, self.mlp_bias),
        ];
        let down = vec![linear("mlp.down_proj", intermediate, hidden, self.mlp_bias)];
        let folds = [
            attention_norm.fold(),
            after_linear(&qkv[2], true),
            mlp_norm.fold(),
            after_linear(&gate_up[1], false),
        ];
        LayerShape {
            attention_norm,
            qk_norm: llama
                .qk_norm
                .then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(head_norm)),
            mlp_norm,
            groups: groups([qkv, o, gate_up, down], folds),
        }
    }

    fn opt_layer(&self, opt: &OptConfig, layer: u32) -> LayerShape {
        let prefix = format!("model.decoder.layers.{layer}");
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let norm = |name: &str| NormShape {
            name: format!("{prefix}.{name}"),
            len: hidden,
            weight: opt.layer_norm_elementwise_affine,
            bias: opt.layer_norm_elementwise_affine,
        };
        let linear = |name: &str, in_features, out_features, bias| LinearShape {
            name: format!("{prefix}.{name}"),
            in_features,
            out_features,
            bias,
        };

        let attention_norm = norm("self_attn_layer_norm");
        let mlp_norm = norm("final_layer_norm");
        let qkv = ["q_proj", "k_proj", "v_proj"]
            .map(|name| linear(&format!("self_attn.{name}"), hidden, hidden, self.qkv_bias))
            .to_vec();
        let out = vec![linear(
            "self_attn.out_proj",
            hidden,
            hidden,
            self.output_bias,
        )];
        let fc1 = vec![linear("fc1", hidden, ffn, self.mlp_bias)];
        let fc2 = vec![linear("fc2", ffn, hidden, self.mlp_bias)];
        // A norm after a block feeds the residual stream too, so nothing can be folded into it.
        let before = |norm: &NormShape| match opt.do_layer_norm_before {
            true => norm.fold(),
            false => Fold::None,
        };
        let folds = [
            before(&attention_norm),
            after_linear(&qkv[2], true),
            before(&mlp_norm),
            after_linear(&fc1[0], false),
        ];
        LayerShape {
            attention_norm,
            qk_norm: None,
            mlp_norm,
            groups: groups([qkv, out, fc1, fc2], folds),
        }
    }
}

fn after_linear(linear: &LinearShape, per_head: bool) -> Fold {
    Fold::Linear {
        name: linear.name.clone(),
        bias: linear.bias,
        per_head,
    }
}

fn groups(linears: [Vec<LinearShape>; 4], folds: [Fold; 4]) -> [LinearGroup; 4] {
    let mut folds = folds.into_iter();
    linears.map(|linears| LinearGroup {
        in_features: linears[0].in_features,
        linears,
        fold: folds.next().unwrap_or(Fold::None),
    })
}
