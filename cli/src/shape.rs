//! Shapes of well-known models, for `bench --shape`.

use crate::exit::{CliError, usage};
use anyhow::Result;
use plateau::checkpoint::{Family, ModelConfig, RopeConfig, RopeScaling};
use std::path::Path;

const NAMES: [&str; 2] = ["tinyllama-1.1b", "llama2-7b"];

/// A named shape, or that of a `config.json`.
pub fn find(name: &str) -> Result<ModelConfig> {
    match name {
        "tinyllama-1.1b" => return Ok(tinyllama_1_1b()),
        "llama2-7b" => return Ok(llama2_7b()),
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
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: layers,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        vocab_size: 32000,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta: 10000.0,
            scaling: RopeScaling::Default,
        },
        windows: vec![None; layers as usize],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_word_embeddings: false,
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
