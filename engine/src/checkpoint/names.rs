//! The tensors that a configuration asks for: names as in Hugging Face's checkpoints of the Llama family, and their shapes.

use super::ModelConfig;

pub const EMBEDDING: &str = "model.embed_tokens";
pub const HEAD: &str = "lm_head";

/// One linear of the decoder. The checkpoint's names are this one and a suffix: `.weight`, `.bias`, `.qweight` …
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
    pub linears: Vec<LinearShape>,
    pub in_features: u32,
    pub fold: Fold,
}

/// What produces a group's input, as far as a scale of each channel can be folded into it without changing the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Nothing that a scale could go into.
    None,
    /// A norm: its weight, and its bias if it has one.
    Norm {
        weight: String,
        bias: Option<String>,
    },
    /// The rows of a linear, without `.weight`, through operations that keep a positive factor of a channel.
    Linear {
        name: String,
        bias: bool,
        /// Rows are heads of values, which one or more query heads read.
        per_head: bool,
    },
}

impl ModelConfig {
    /// The linears of layer `layer` by what they read, in the order in which a token meets them.
    pub fn layer_groups(&self, layer: u32) -> Vec<LinearGroup> {
        let prefix = format!("model.layers.{layer}");
        let norm = |name: &str| Fold::Norm {
            weight: format!("{prefix}.{name}.weight"),
            bias: None,
        };
        let linear = |name: &str, bias, per_head| Fold::Linear {
            name: format!("{prefix}.{name}"),
            bias,
            per_head,
        };
        let mut linears = self.layer_linears(layer).into_iter();
        let mut group = |len: usize, fold| {
            let linears: Vec<_> = linears.by_ref().take(len).collect();
            LinearGroup {
                in_features: linears[0].in_features,
                linears,
                fold,
            }
        };
        vec![
            group(3, norm("input_layernorm")),
            group(1, linear("self_attn.v_proj", self.qkv_bias, true)),
            group(2, norm("post_attention_layernorm")),
            group(1, linear("mlp.up_proj", self.mlp_bias, false)),
        ]
    }

    /// Every linear of the decoder, in the order in which a token meets them. The head is not one of them.
    pub fn linears(&self) -> Vec<LinearShape> {
        (0..self.num_hidden_layers)
            .flat_map(|layer| self.layer_linears(layer))
            .collect()
    }

    /// The linears of layer `layer`, in the order in which a token meets them.
    pub fn layer_linears(&self, layer: u32) -> Vec<LinearShape> {
        let query = self.num_attention_heads * self.head_dim;
        let key = self.num_key_value_heads * self.head_dim;
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let of_a_layer = [
            ("self_attn.q_proj", hidden, query, self.qkv_bias),
            ("self_attn.k_proj", hidden, key, self.qkv_bias),
            ("self_attn.v_proj", hidden, key, self.qkv_bias),
            ("self_attn.o_proj", query, hidden, self.output_bias),
            ("mlp.gate_proj", hidden, intermediate, self.mlp_bias),
            ("mlp.up_proj", hidden, intermediate, self.mlp_bias),
            ("mlp.down_proj", intermediate, hidden, self.mlp_bias),
        ];
        let linear = |(name, in_features, out_features, bias)| LinearShape {
            name: format!("model.layers.{layer}.{name}"),
            in_features,
            out_features,
            bias,
        };
        of_a_layer.map(linear).to_vec()
    }

    /// Every norm's weight with its length.
    pub fn norms(&self) -> Vec<(String, u32)> {
        (0..self.num_hidden_layers)
            .flat_map(|layer| self.layer_norms(layer))
            .chain(self.final_norms())
            .collect()
    }

    /// The norms' weights of layer `layer`, with their lengths.
    pub fn layer_norms(&self, layer: u32) -> Vec<(String, u32)> {
        let (hidden, head_dim) = (self.hidden_size, self.head_dim);
        let mut norms = vec![("input_layernorm", hidden)];
        if self.qk_norm {
            norms.extend([
                ("self_attn.q_norm", head_dim),
                ("self_attn.k_norm", head_dim),
            ]);
        }
        norms.push(("post_attention_layernorm", hidden));
        norms
            .into_iter()
            .map(|(name, len)| (format!("model.layers.{layer}.{name}.weight"), len))
            .collect()
    }

    /// The norms' weights after the last layer.
    pub fn final_norms(&self) -> Vec<(String, u32)> {
        vec![("model.norm.weight".to_owned(), self.hidden_size)]
    }

    /// The embedding, and the head where it has a table of its own: `[vocab_size, hidden_size]` each.
    pub fn tables(&self) -> &'static [&'static str] {
        if self.tie_word_embeddings {
            &[EMBEDDING]
        } else {
            &[EMBEDDING, HEAD]
        }
    }
}
