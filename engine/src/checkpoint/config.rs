//! `config.json` and `generation_config.json` to what they mean.

/// Which family of models a checkpoint belongs to: its `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    Default,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Angle per position of each pair of a head, `[head_dim / 2]`.
    pub fn inverse_frequencies(&self, _head_dim: u32) -> Vec<f64> {
        unimplemented!("checkpoint")
    }
}

/// The Llama family's shape. Checked: every size is positive and bounded, heads divide, head_dim is even.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    pub head_dim: u32,
    pub vocab_size: u32,
    pub max_position_embeddings: u32,
    pub rms_norm_eps: f32,
    pub rope: RopeConfig,
    /// Keys that each layer sees back from a position, itself included; `None` is all. One entry per layer.
    pub windows: Vec<Option<u32>>,
    /// Bias of q, k and v; of o; of gate, up and down.
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// RMS norm of each head of q and k (Qwen3).
    pub qk_norm: bool,
    pub tie_word_embeddings: bool,
}

impl ModelConfig {
    /// From the text of a `config.json`; `file` names it in errors.
    pub fn parse(_file: &str, _json: &str) -> Result<Self, super::LoadError> {
        unimplemented!("checkpoint")
    }
}

/// `generation_config.json`, with `config.json` as the fallback.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct GenerationConfig {
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}
