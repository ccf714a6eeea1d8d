//! Shapes of well-known models, for `bench --shape`.

use crate::exit::{CliError, usage};
use anyhow::Result;
use plateau::checkpoint::{
    Architecture, Family, LlamaConfig, ModelConfig, OptConfig, RopeConfig, RopeScaling,
};
use std::path::Path;

const NAMES: [&str; 5] = [
    "tinyllama-1.1b",
    "llama2-7b",
    "llama3.1-8b",
    "opt-1.3b",
    "opt-6.7b",
];

/// A named shape, or that of a `config.json`.
pub fn find(name: &str) -> Result<ModelConfig> {
    match name {
        "tinyllama-1.1b" => return Ok(tinyllama_1_1b()),
        "llama2-7b" => return Ok(llama2_7b()),
        "llama3.1-8b" => return Ok(llama3_1_8b()),
        "opt-1.3b" => return Ok(opt(2048, 24)),
        "opt-6.7b" => return Ok(opt(4096, 32)),
        path if path.ends_with(".json") => {}
        _ => {
            let known = NAMES.join(", ");
            return Err(usage(format!(
                "--shape '{name}': found neither a name ({known}) nor the path of a config.json"
            )));
        }
    }
    let json = std::fs::read_to_string(Path::new(name)).map_err(|source| CliError::File {
        verb: "read",
        path: name.to_owned(),
        source,
    })?;
    Ok(ModelConfig::parse(name, &json)?)
}

/// TinyLlama/TinyLlama-1.1B-Chat-v1.0.
pub fn tinyllama_1_1b() -> ModelConfig {
    let layers = 22;
    ModelConfig {
        hidden_size: 2048,
        intermediate_size: 5632,
        num_hidden_layers: layers,
        num_attention_heads: 32,
        num_key_value_heads: 4,
        head_dim: 64,
        max_position_embeddings: 2048,
        windows: vec![None; layers as usize],
        ..llama2_7b()
    }
}

/// meta-llama/Llama-2-7b-hf.
pub fn llama2_7b() -> ModelConfig {
    let layers = 32;
    ModelConfig {
        family: Family::Llama,
        architecture: Architecture::Llama(LlamaConfig {
            rms_norm_eps: 1e-5,
            rope: RopeConfig {
                theta: 10000.0,
                scaling: RopeScaling::Default,
            },
            qk_norm: false,
        }),
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: layers,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        vocab_size: 32000,
        max_position_embeddings: 4096,
        windows: vec![None; layers as usize],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
    }
}

/// meta-llama/Llama-3.1-8B: four query heads for each KV head, and a long context.
pub fn llama3_1_8b() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama(LlamaConfig {
            rms_norm_eps: 1e-5,
            rope: RopeConfig {
                theta: 500_000.0,
                scaling: RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 8192.0,
                },
            },
            qk_norm: false,
        }),
        intermediate_size: 14336,
        num_key_value_heads: 8,
        vocab_size: 128_256,
        max_position_embeddings: 131_072,
        ..llama2_7b()
    }
}

/// facebook/opt-1.3b and facebook/opt-6.7b.
pub fn opt(hidden_size: u32, layers: u32) -> ModelConfig {
    ModelConfig {
        family: Family::Opt,
        architecture: Architecture::Opt(OptConfig {
            word_embed_proj_dim: hidden_size,
            do_layer_norm_before: true,
            final_layer_norm: true,
            layer_norm_elementwise_affine: true,
        }),
        hidden_size,
        intermediate_size: 4 * hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: hidden_size / 32,
        vocab_size: 50272,
        max_position_embeddings: 2048,
        windows: vec![None; layers as usize],
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        tie_word_embeddings: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Code, code};

    #[test]
    fn names_are_found_and_others_are_refused_with_the_list() {
        for name in NAMES {
            assert!(find(name).is_ok(), "{name}");
        }
        let error = find("llama3-8b").expect_err("an unknown name");
        assert_eq!(code(&error), Code::Usage);
        assert!(error.to_string().contains("tinyllama-1.1b, llama2-7b"));
        assert_eq!(
            code(&find("/nowhere/config.json").expect_err("no such file")),
            Code::Failure
        );
    }
}
