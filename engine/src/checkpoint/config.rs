//! `config.json` and `generation_config.json` to what they mean.
//!
//! Defaults are those of the reference implementation, `transformers`. A key that would change the mathematics and that this
//! program does not know how to honour is an error, never a warning.

use super::LoadError;
use super::json::Fields;

/// Longest `config.json` or `generation_config.json` that is read, in bytes.
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;

// Bounds of the sizes. Each is beyond any model of these families, and small enough that products of a few of them fit in u64.

/// Inputs of a linear. 2^17 products of -128 and 127 still fit an i32 accumulator: what makes every integer product exact.
pub const MAX_FEATURES: u64 = 1 << 17;
pub const MAX_LAYERS: u64 = 1 << 10;
pub const MAX_HEADS: u64 = 1 << 10;
/// What the attention kernels hold in workgroup memory.
pub const MAX_HEAD_DIM: u64 = 256;
pub const MAX_VOCAB: u64 = 1 << 21;
pub const MAX_POSITIONS: u64 = 1 << 24;

/// Which family of models a checkpoint belongs to: its `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Opt,
}

impl Family {
    pub const ALL: [Family; 5] = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Opt,
    ];

    /// `model_type` in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Opt => "opt",
        }
    }
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
    /// Angle per position of each pair of a head, `[head_dim / 2]`, in radians.
    ///
    /// The formulas are those of `transformers`' `modeling_rope_utils.py`, in f64.
    pub fn inverse_frequencies(&self, head_dim: u32) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|pair| {
                let exponent = -2.0 * f64::from(pair) / f64::from(head_dim);
                self.scaled(libm::pow(self.theta, exponent))
            })
            .collect()
    }

    fn scaled(&self, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < original_max_position_embeddings / high_freq_factor {
                    frequency
                } else if wavelength > original_max_position_embeddings / low_freq_factor {
                    frequency / factor
                } else {
                    let turns = original_max_position_embeddings / wavelength;
                    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// What only the Llama family has: Llama, Mistral, Qwen2, Qwen3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlamaConfig {
    pub rms_norm_eps: f32,
    pub rope: RopeConfig,
    /// RMS norm of each head of q and k (Qwen3).
    pub qk_norm: bool,
}

/// What only OPT has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptConfig {
    /// Width of the embedding and the head; where it is not `hidden_size`, a linear leads in and one out.
    pub word_embed_proj_dim: u32,
    /// Norms before attention and MLP, or after them (opt-350m).
    pub do_layer_norm_before: bool,
    /// A norm after the last layer: of the pre-norm variant, unless `_remove_final_layer_norm`.
    pub final_layer_norm: bool,
    /// Whether norms have a weight and a bias.
    pub layer_norm_elementwise_affine: bool,
}

impl OptConfig {
    /// PyTorch's default, which no config changes.
    pub const LAYER_NORM_EPS: f32 = 1e-5;
    /// Row of the position table for position 0.
    pub const POSITION_OFFSET: u32 = 2;
}

/// Which graph a model has, with what only that graph needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Architecture {
    Llama(LlamaConfig),
    Opt(OptConfig),
}

/// A model's shape. Checked: every size is positive and bounded, heads divide, head_dim is even.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub architecture: Architecture,
    pub hidden_size: u32,
    /// OPT: `ffn_dim`.
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    pub head_dim: u32,
    pub vocab_size: u32,
    pub max_position_embeddings: u32,
    /// Keys that each layer sees back from a position, itself included; `None` is all. One entry per layer.
    pub windows: Vec<Option<u32>>,
    /// Bias of q, k and v; of o; of the MLP's linears.
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
}

impl ModelConfig {
    /// From the text of a `config.json`; `file` names it in errors. What `quantization_config` says is another matter:
    /// [`QuantizationConfig::parse`](super::QuantizationConfig::parse).
    pub fn parse(file: &str, json: &str) -> Result<Self, LoadError> {
        let fields = Fields::parse(file, json)?;
        let model_type = fields.required_text("model_type")?;
        let Some(family) = Family::ALL
            .into_iter()
            .find(|family| family.name() == model_type)
        else {
            return Err(fields.invalid(
                "model_type",
                format!("'{model_type}'"),
                format!("one of {}", known_families()),
            ));
        };
        match family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => {
                llama(&fields, family)
            }
            Family::Opt => opt(&fields),
        }
    }

    /// Width of the embedding and the head.
    pub fn embedding_size(&self) -> u32 {
        match &self.architecture {
            Architecture::Llama(_) => self.hidden_size,
            Architecture::Opt(opt) => opt.word_embed_proj_dim,
        }
    }
}

fn llama(fields: &Fields, family: Family) -> Result<ModelConfig, LoadError> {
    refuse_unknown_mathematics(fields)?;
    let hidden_size = fields.required_size("hidden_size", MAX_FEATURES)?;
    let intermediate_size = fields.required_size("intermediate_size", MAX_FEATURES)?;
    let num_hidden_layers = fields.required_size("num_hidden_layers", MAX_LAYERS)?;
    let num_attention_heads = fields.required_size("num_attention_heads", MAX_HEADS)?;
    let num_key_value_heads = fields
        .size("num_key_value_heads", MAX_HEADS)?
        .unwrap_or(num_attention_heads);
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let expected = format!("a divisor of num_attention_heads, {num_attention_heads}");
        return Err(fields.invalid("num_key_value_heads", num_key_value_heads, expected));
    }
    let head_dim = head_dim(fields, family, hidden_size, num_attention_heads)?;
    let attention_features = u64::from(head_dim) * u64::from(num_attention_heads);
    if attention_features > MAX_FEATURES {
        let expected = format!("at most {MAX_FEATURES}");
        return Err(fields.invalid(
            "num_attention_heads * head_dim",
            attention_features,
            expected,
        ));
    }
    let attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
    let mlp_bias = fields.flag("mlp_bias")?.unwrap_or(false);
    let (qkv_bias, output_bias, mlp_bias) = match family {
        Family::Llama => (attention_bias, attention_bias, mlp_bias),
        Family::Qwen2 => (true, false, false),
        Family::Qwen3 => (attention_bias, attention_bias, false),
        Family::Mistral | Family::Opt => (false, false, false),
    };
    Ok(ModelConfig {
        family,
        architecture: Architecture::Llama(LlamaConfig {
            rms_norm_eps: rms_norm_eps(fields)?,
            rope: rope(fields)?,
            qk_norm: family == Family::Qwen3,
        }),
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: fields.required_size("vocab_size", MAX_VOCAB)?,
        max_position_embeddings: fields.required_size("max_position_embeddings", MAX_POSITIONS)?,
        windows: windows(fields, family, num_hidden_layers)?,
        qkv_bias,
        output_bias,
        mlp_bias,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
    })
}

fn opt(fields: &Fields) -> Result<ModelConfig, LoadError> {
    let activation = fields.text("activation_function")?.unwrap_or("relu");
    if activation != "relu" {
        return Err(fields.invalid("activation_function", format!("'{activation}'"), "'relu'"));
    }
    // OPT's sisters say by these that they are something else.
    for (key, known) in [("learned_embeddings", true), ("scale_embeddings", false)] {
        let found = fields.flag(key)?.unwrap_or(known);
        if found != known {
            return Err(fields.invalid(key, found, known));
        }
    }
    let hidden_size = fields.required_size("hidden_size", MAX_FEATURES)?;
    let num_hidden_layers = fields.required_size("num_hidden_layers", MAX_LAYERS)?;
    let num_attention_heads = fields.required_size("num_attention_heads", MAX_HEADS)?;
    let do_layer_norm_before = fields.flag("do_layer_norm_before")?.unwrap_or(true);
    let remove_final_layer_norm = fields.flag("_remove_final_layer_norm")?.unwrap_or(false);
    let bias = fields.flag("enable_bias")?.unwrap_or(true);
    Ok(ModelConfig {
        family: Family::Opt,
        architecture: Architecture::Opt(OptConfig {
            word_embed_proj_dim: fields
                .size("word_embed_proj_dim", MAX_FEATURES)?
                .unwrap_or(hidden_size),
            do_layer_norm_before,
            final_layer_norm: do_layer_norm_before && !remove_final_layer_norm,
            layer_norm_elementwise_affine: fields
                .flag("layer_norm_elementwise_affine")?
                .unwrap_or(true),
        }),
        hidden_size,
        intermediate_size: fields.required_size("ffn_dim", MAX_FEATURES)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_attention_heads,
        head_dim: head_dim(fields, Family::Opt, hidden_size, num_attention_heads)?,
        vocab_size: fields.required_size("vocab_size", MAX_VOCAB)?,
        max_position_embeddings: fields.required_size("max_position_embeddings", MAX_POSITIONS)?,
        windows: vec![None; num_hidden_layers as usize],
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(true),
    })
}

fn known_families() -> String {
    Family::ALL.map(Family::name).join(", ")
}

fn refuse_unknown_mathematics(fields: &Fields) -> Result<(), LoadError> {
    let activation = fields.text("hidden_act")?.unwrap_or("silu");
    if activation != "silu" {
        return Err(fields.invalid("hidden_act", format!("'{activation}'"), "'silu'"));
    }
    let rotary = fields.number("partial_rotary_factor")?.unwrap_or(1.0);
    if rotary != 1.0 {
        return Err(fields.invalid("partial_rotary_factor", rotary, "1"));
    }
    Ok(())
}

fn head_dim(
    fields: &Fields,
    family: Family,
    hidden_size: u32,
    heads: u32,
) -> Result<u32, LoadError> {
    // Qwen3's own default; the other families divide.
    const QWEN3_HEAD_DIM: u32 = 128;
    let found = match (fields.size("head_dim", MAX_HEAD_DIM)?, family) {
        (Some(head_dim), _) => head_dim,
        (None, Family::Qwen3) => QWEN3_HEAD_DIM,
        (None, Family::Llama | Family::Mistral | Family::Qwen2 | Family::Opt) => {
            if !hidden_size.is_multiple_of(heads) {
                let expected =
                    format!("a divisor of hidden_size, {hidden_size}, where head_dim is not given");
                return Err(fields.invalid("num_attention_heads", heads, expected));
            }
            hidden_size / heads
        }
    };
    if !found.is_multiple_of(2) || u64::from(found) > MAX_HEAD_DIM {
        return Err(fields.invalid(
            "head_dim",
            found,
            format!("an even number up to {MAX_HEAD_DIM}"),
        ));
    }
    Ok(found)
}

fn rms_norm_eps(fields: &Fields) -> Result<f32, LoadError> {
    const DEFAULT: f64 = 1e-6;
    let eps = fields.number("rms_norm_eps")?.unwrap_or(DEFAULT);
    // As f32 it must still be positive, or a row of zeros would be divided by zero.
    let narrowed = eps as f32;
    if narrowed > 0.0 && narrowed < 1.0 {
        Ok(narrowed)
    } else {
        Err(fields.invalid("rms_norm_eps", eps, "a number between 0 and 1"))
    }
}

/// `rope_theta` and `rope_scaling`, or the `rope_parameters` that newer versions of transformers write.
fn rope(fields: &Fields) -> Result<RopeConfig, LoadError> {
    const DEFAULT_THETA: f64 = 10000.0;
    let scaling = match fields.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters")?,
    };
    let theta = match &scaling {
        Some(scaling) => scaling.positive("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => fields.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    let scaling = match &scaling {
        Some(scaling) => rope_scaling(scaling)?,
        None => RopeScaling::Default,
    };
    Ok(RopeConfig { theta, scaling })
}

fn rope_scaling(fields: &Fields) -> Result<RopeScaling, LoadError> {
    const KNOWN: &str = "one of default, linear, llama3";
    let rotary = fields.number("partial_rotary_factor")?.unwrap_or(1.0);
    if rotary != 1.0 {
        return Err(fields.invalid("partial_rotary_factor", rotary, "1"));
    }
    let named = match fields.text("rope_type")? {
        Some(name) => Some(name),
        None => fields.text("type")?,
    };
    match named {
        Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: fields.required_positive("factor")?,
        }),
        Some("llama3") => {
            let low_freq_factor = fields.required_positive("low_freq_factor")?;
            let high_freq_factor = fields.required_positive("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than low_freq_factor, {low_freq_factor}");
                return Err(fields.invalid("high_freq_factor", high_freq_factor, expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: fields.required_positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: fields
                    .required_positive("original_max_position_embeddings")?,
            })
        }
        Some(other) => Err(fields.invalid("rope_type", format!("'{other}'"), KNOWN)),
        // `rope_parameters` of a model without scaling may be the theta alone; anything more needs its type.
        None => match fields
            .keys()
            .find(|&key| key != "rope_theta" && key != "partial_rotary_factor")
        {
            None => Ok(RopeScaling::Default),
            Some(key) => Err(fields.invalid("rope_type", format!("none, beside '{key}'"), KNOWN)),
        },
    }
}

/// The window of each layer.
fn windows(fields: &Fields, family: Family, layers: u32) -> Result<Vec<Option<u32>>, LoadError> {
    // What transformers takes when the key is absent; null means none.
    const DEFAULT_WINDOW: u32 = 4096;
    const DEFAULT_FULL_LAYERS: u32 = 28;
    let window = || match fields.is_null("sliding_window") {
        true => Ok(None),
        false => Ok(Some(
            fields
                .size("sliding_window", MAX_POSITIONS)?
                .unwrap_or(DEFAULT_WINDOW),
        )),
    };
    let (window, first_windowed) = match family {
        Family::Llama | Family::Opt => (None, 0),
        Family::Mistral => (window()?, 0),
        Family::Qwen2 | Family::Qwen3 => {
            let used = fields.flag("use_sliding_window")?.unwrap_or(false);
            let full = fields
                .count("max_window_layers", MAX_POSITIONS)?
                .unwrap_or(DEFAULT_FULL_LAYERS);
            (if used { window()? } else { None }, full)
        }
    };
    let implied: Vec<Option<u32>> = (0..layers)
        .map(|layer| window.filter(|_| layer >= first_windowed))
        .collect();
    let Some(types) = fields.list("layer_types")? else {
        return Ok(implied);
    };
    if types.len() != implied.len() {
        return Err(fields.invalid("layer_types", format!("{} layers", types.len()), layers));
    }
    let by_type = types
        .iter()
        .enumerate()
        .map(|(layer, found)| match found.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            _ => {
                let expected = match window {
                    Some(_) => "\"full_attention\" or \"sliding_attention\"",
                    None => "\"full_attention\", since there is no sliding window",
                };
                Err(fields.invalid(&format!("layer_types of layer {layer}"), found, expected))
            }
        });
    by_type.collect()
}

/// `generation_config.json`, with `config.json` as the fallback.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct GenerationConfig {
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

impl GenerationConfig {
    /// From the texts of the two files, each with its name for errors; the first may be absent.
    pub fn parse(
        generation: Option<(&str, &str)>,
        config: (&str, &str),
    ) -> Result<Self, LoadError> {
        let mut files = Vec::new();
        if let Some((file, json)) = generation {
            files.push(Fields::parse(file, json)?);
        }
        files.push(Fields::parse(config.0, config.1)?);
        let first = |key: &str| -> Result<Vec<u32>, LoadError> {
            for fields in &files {
                let ids = fields.token_ids(key)?;
                if !ids.is_empty() {
                    return Ok(ids);
                }
            }
            Ok(Vec::new())
        };
        Ok(Self {
            bos_token_id: first("bos_token_id")?.first().copied(),
            eos_token_ids: first("eos_token_id")?,
            pad_token_id: first("pad_token_id")?.first().copied(),
        })
    }
}
