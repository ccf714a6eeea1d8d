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

impl ModelConfig {
    /// Every linear of the decoder, in the order in which a token meets them. The head is not one of them.
    pub fn linears(&self) -> Vec<LinearShape> {
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
        let layers = 0..self.num_hidden_layers;
        let linears = layers.flat_map(|layer| {
            of_a_layer.map(|(name, in_features, out_features, bias)| LinearShape {
                name: format!("model.layers.{layer}.{name}"),
                in_features,
                out_features,
                bias,
            })
        });
        linears.collect()
    }

    /// Every norm's weight with its length.
    pub fn norms(&self) -> Vec<(String, u32)> {
        let mut norms = Vec::new();
        for layer in 0..self.num_hidden_layers {
            norms.push((
                format!("model.layers.{layer}.input_layernorm.weight"),
                self.hidden_size,
            ));
            if self.qk_norm {
                norms.push((
                    format!("model.layers.{layer}.self_attn.q_norm.weight"),
                    self.head_dim,
                ));
                norms.push((
                    format!("model.layers.{layer}.self_attn.k_norm.weight"),
                    self.head_dim,
                ));
            }
            norms.push((
                format!("model.layers.{layer}.post_attention_layernorm.weight"),
                self.hidden_size,
            ));
        }
        norms.push(("model.norm.weight".to_owned(), self.hidden_size));
        norms
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
