//! The quantized checkpoint, version 2: `quantization_config` of `config.json`, and the names and shapes of its tensors.
//!
//! # Format
//!
//! A folder in Hugging Face layout: the float model's `config.json` with a `quantization_config` added, its `tokenizer.json`,
//! `tokenizer_config.json` and `generation_config.json` unchanged, and the tensors in `model.safetensors` or in shards with
//! `model.safetensors.index.json`. All numbers are little-endian; every word is a U32.
//!
//! ## `quantization_config`
//!
//! ```json
//! {
//!   "quant_method": "flattenquant",
//!   "version": 2,
//!   "producer": "plateau 0.1.0",
//!   "recipe": "flattenquant-w4a8",
//!   "default": {
//!     "weight_bits": 4, "weight_scale": "channel", "group_size": 32,
//!     "activation_bits": 8, "activation_scale": "dynamic"
//!   },
//!   "overrides": { "model.layers.3.mlp.down_proj": { "weight_bits": 8, … } },
//!   "kv_prefix": null
//! }
//! ```
//!
//! - `version`: a reader refuses what it does not know. No other keys may be present: a version says what there is. Version 1 is
//!   this one without `weight_bits` 5 and 6, and without `"float"` activations.
//! - `producer`, `recipe`: for people; `recipe` may be empty, and both may be absent.
//! - `default` is how every linear of the decoder is stored; `overrides` (may be absent) names those that differ, each with all
//!   five keys:
//!   - `weight_bits`: 4 (integers from -7 to 7), 5 (-15 to 15), 6 (-31 to 31) or 8 (-127 to 127), symmetric, no zero point. INT5 and
//!     INT6 make files smaller, not devices faster: they are expanded to INT8 while they are loaded, and computed as INT8.
//!   - `activation_bits`: 4 or 8, in the same ranges. INT4 activations are computed as bytes; only their range is smaller. Null, or
//!     absent, where `activation_scale` is `"float"`.
//!   - `weight_scale`: `"channel"`, one scale for each output channel, or `"tensor"`, one in all.
//!   - `group_size`: 32, 64 or 128 input features that share a multiplier, or 0 for none. Only with `weight_bits` 4.
//!   - `activation_scale`: `"dynamic"`, from each token's absmax at run time; `"static"`, stored with a flatten map; or `"float"`: there
//!     are none, the weights become f32 while they are loaded and the linear computes in f32. That shows what a way of rounding
//!     weights costs by itself; it saves no memory and no time on a device.
//! - `kv_prefix`: null or absent, or `{"tokens": [ids]}`, 1 to 64 ids. A sequence that begins with these tokens has the stored keys
//!   and values for them, and not computed ones; other sequences do not. Large activations live in the first token (`<s>`), so its
//!   keys and values from the float model, never quantized, spare the layers most of them, as PrefixQuant
//!   ([arXiv 2410.05265](https://arxiv.org/abs/2410.05265)) and IntactKV ([arXiv 2403.01241](https://arxiv.org/abs/2403.01241)) do.
//!
//! The embedding, and the head where it is not tied, are always INT8 with a scale per row, and the head's activations INT8 with a
//! scale for each token.
//!
//! ## Tensors
//!
//! Let `in`, `out` be the features of linear NAME (`model.layers.0.self_attn.q_proj` …), `extra` the length of its flatten map
//! (0 where its activations are dynamic), `padded = round_up(in + extra, 32)`.
//!
//! | tensor | dtype, shape | there when |
//! | --- | --- | --- |
//! | `NAME.qweight` | U32 `[out, padded / 8]` (INT4, INT5, INT6) or `[out, padded / 4]` (INT8) | always |
//! | `NAME.qweight_high` | U32 `[out, padded / 32]` (INT5) or `[out, padded / 16]` (INT6) | `weight_bits` 5 or 6 |
//! | `NAME.scales` | F32 `[out]`, or `[1]` for `"tensor"` | always |
//! | `NAME.multipliers` | U32 `[out, ceil(groups / 8)]`, `groups = ceil(padded / group_size)` | `group_size` > 0 |
//! | `NAME.bias` | F32 `[out]` | the family has one |
//! | `NAME.input_scale` | F32 `[1]` | `"static"` |
//! | `NAME.flatten_map` | U32 `[extra]` | `"static"` |
//! | `NAME.flatten_index` | U32 `[in, 2]` | `"static"` |
//! | `model.embed_tokens.qweight`, `lm_head.qweight` | U32 `[vocab, round_up(hidden, 32) / 4]` | always; untied |
//! | `model.embed_tokens.scales`, `lm_head.scales` | F32 `[vocab]` | the same |
//! | norm weights and biases, under their float names | F32 | always |
//! | `model.layers.I.self_attn.k_prefix`, `….v_prefix` | F32 `[N, kv_heads * head_dim]` | `kv_prefix` has N tokens |
//! | `model.hidden_prefix` | F32 `[1, hidden]` | may be, where `kv_prefix` has one token |
//!
//! OPT's names begin with `model.decoder.` where Llama's begin with `model.`. Its `model.decoder.embed_positions.weight`
//! `[positions + 2, hidden]`, and where the embedding's width is not the decoder's `model.decoder.project_in.weight` and
//! `model.decoder.project_out.weight`, stay as they are in the float model: F32, F16 or BF16. (`hidden` of the embedding and the
//! head is then `word_embed_proj_dim`.)
//!
//! INT8 words hold four two's complement bytes, the first feature in the lowest byte; the padding is 0. INT4 words hold eight
//! offset binary nibbles `n = w + 8`: the word of features f to f+7 has in byte b (0 to 3) feature f+b in the low nibble and
//! feature f+4+b in the high one; the padding is `0x88888888`. In `multipliers` nibble g % 8 (from the lowest) of word g / 8 of
//! a row holds m - 1 of group g, m from 1 to 16; the padding is 0.
//!
//! INT5 is `n = w + 16`, INT6 `n = w + 32`, with padding of w = 0. The low four bits of n are in `qweight`, placed as INT4's; the
//! high ones in `qweight_high`: of the 32 features from f on, those of feature f + 4 g + b are in byte b, for INT5 bit g of it in the one
//! word, for INT6 bits 2 (g % 4) and 2 (g % 4) + 1 of it in word g / 4 of two.
//!
//! A weight's value is `w * scale`, with groups `w * m * scale`. A weight's scale may be 0 (a row of zeros), `input_scale` not.
//! With dynamic activations `y = (sum over features of x_q * w * m) * (x_scale * w_scale) + bias`.
//!
//! ## Static activations and the flatten map
//!
//! A channel j of the input with large values is split into n_j parts (1 to 255), as FlattenQuant does
//! ([arXiv 2402.17985](https://arxiv.org/abs/2402.17985), section 3.2). Flat channels 0 to in-1 are part 0 of each channel in
//! order; flat channel in + e is what word e of `flatten_map` says: `source | part << 24`. The weight's columns follow the flat
//! channels. Where activations are flattened, a split channel's column is repeated; where weights are, a column is split and the
//! channel of the input is repeated: so a part may stand in the map more often than once, and part 0 may stand there too.
//!
//! The extra channels of a source are consecutive, their parts do not descend, and each part from 1 to n_j - 1 is among them.
//! n_j is 1 and the highest part among them; 1 where there are none. The word `0xff000000` (channel 0, part 255) stands for a
//! channel that is always zero: room that a producer may leave between the extra channels.
//!
//! `flatten_index` is the inverse: row j holds the first extra channel of j, e as above, and how many there are; 0, 0 for none.
//! Readers check that the two agree.
//!
//! With `inv_scale = 1 / input_scale` in f32 and q_max 7 or 127, `q = round_ties_even(clamp(x * inv_scale, ±n_j * q_max))`, and the
//! integer of part p is `sign(q) * clamp(|q| - p * q_max, 0, q_max)`.

use super::config::{MAX_CONFIG_BYTES, MAX_FEATURES};
use super::json::{Fields, shortened};
use super::safetensors::{Checkpoint, Dtype};
use super::{LinearShape, LoadError};
use crate::tensor::{Bits, Granularity, WeightBits};
use plateau_shaders::{pack, padded};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// `quant_method` of this format.
pub const QUANT_METHOD: &str = "flattenquant";
/// `version` that this program writes; it reads those before too.
pub const FORMAT_VERSION: u32 = 2;
/// A word of a flatten map for a channel that is always zero.
pub const FLATTEN_PADDING: u32 = 0xff00_0000;
/// Most parts of one channel, part 0 included: the last part that a map can name, 254, and [`FLATTEN_PADDING`]'s stays free.
pub const MAX_PARTS: u32 = 255;
/// Bits of a flatten map's word that hold the source channel.
const SOURCE_BITS: u32 = 24;
/// Nibbles in a word.
const WORD_NIBBLES: u32 = 8;
/// Bytes in a word.
const WORD_BYTES: u32 = 4;
/// Most tokens of a stored KV prefix.
pub const MAX_PREFIX_TOKENS: usize = 64;

/// What a linear's input becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationFormat {
    /// It stays f32, and the weights are f32 on the device.
    Float,
    /// Integers, with a scale from the absmax of each token at run time.
    Dynamic(Bits),
    /// Integers, with one scale for the tensor and a flatten map in the checkpoint.
    Static(Bits),
}

impl ActivationFormat {
    /// Of the integers, where there are any.
    pub const fn bits(self) -> Option<Bits> {
        match self {
            ActivationFormat::Float => None,
            ActivationFormat::Dynamic(bits) | ActivationFormat::Static(bits) => Some(bits),
        }
    }

    /// As `activation_scale` says it.
    pub const fn name(self) -> &'static str {
        match self {
            ActivationFormat::Float => "float",
            ActivationFormat::Dynamic(_) => "dynamic",
            ActivationFormat::Static(_) => "static",
        }
    }
}

/// How one linear is stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearFormat {
    pub weight_bits: WeightBits,
    pub weight_scale: Granularity,
    /// Features that share an integer multiplier of the channel's scale: 32, 64, 128, or 0 for none. INT4 only.
    pub group_size: u32,
    pub activations: ActivationFormat,
}

/// The embedding and the head: INT8 with a scale for each row.
pub const TABLE_FORMAT: LinearFormat = LinearFormat {
    weight_bits: WeightBits::Int8,
    weight_scale: Granularity::PerChannel,
    group_size: 0,
    activations: ActivationFormat::Dynamic(Bits::Int8),
};

impl LinearFormat {
    /// Group sizes that exist.
    pub const GROUP_SIZES: [u32; 4] = [0, 32, 64, 128];

    /// Words of a row of weights with `flat_features` inputs, the plane of high bits not among them.
    pub const fn row_words(&self, flat_features: u32) -> u32 {
        match self.weight_bits {
            WeightBits::Int8 => padded(flat_features) / WORD_BYTES,
            WeightBits::Int4 | WeightBits::Int5 | WeightBits::Int6 => {
                padded(flat_features) / WORD_NIBBLES
            }
        }
    }

    /// Words of a row's high bits; 0 where there is no such plane.
    pub const fn high_row_words(&self, flat_features: u32) -> u32 {
        let high_bits = self.weight_bits.high_bits() as usize;
        pack::high_row_words(flat_features as usize, high_bits) as u32
    }

    /// Words of a row's multipliers; 0 without groups.
    pub const fn multiplier_words(&self, flat_features: u32) -> u32 {
        match self.group_size {
            0 => 0,
            size => padded(flat_features).div_ceil(size).div_ceil(WORD_NIBBLES),
        }
    }

    /// Scales of a weight with `out_features` rows.
    pub const fn num_scales(&self, out_features: u32) -> u32 {
        match self.weight_scale {
            Granularity::PerChannel => out_features,
            Granularity::PerTensor => 1,
        }
    }

    /// The values of a row: `words` and `multipliers` as a device has them, `scale` the row's. Each is rounded once.
    pub fn dequantize_row(&self, words: &[u32], scale: f32, multipliers: &[u32], row: &mut [f32]) {
        let mut integers = vec![0_i8; row.len()];
        match self.weight_bits.on_device() {
            Bits::Int4 => pack::unpack_i4(words, &mut integers),
            Bits::Int8 => pack::unpack_i8(words, &mut integers),
        }
        for (feature, (value, integer)) in row.iter_mut().zip(integers).enumerate() {
            let multiplier = feature
                .checked_div(self.group_size as usize)
                .map_or(1, |group| pack::multiplier(multipliers, group));
            // A whole number of at most 127 times the scale.
            *value = scale * (multiplier as f32 * f32::from(integer));
        }
    }

    fn parse(fields: &Fields) -> Result<Self, LoadError> {
        refuse_other_keys(
            fields,
            &[
                "weight_bits",
                "weight_scale",
                "group_size",
                "activation_bits",
                "activation_scale",
            ],
        )?;
        let count = fields.required_count("weight_bits", u32::MAX.into())?;
        let weight_bits = WeightBits::ALL
            .into_iter()
            .find(|bits| bits.count() == count)
            .ok_or_else(|| fields.invalid("weight_bits", count, "4, 5, 6 or 8"))?;
        let weight_scale = match fields.required_text("weight_scale")? {
            "channel" => Granularity::PerChannel,
            "tensor" => Granularity::PerTensor,
            other => {
                return Err(fields.invalid(
                    "weight_scale",
                    format!("'{other}'"),
                    "'channel' or 'tensor'",
                ));
            }
        };
        let group_size = fields.required_count("group_size", u32::MAX.into())?;
        if !Self::GROUP_SIZES.contains(&group_size) {
            return Err(fields.invalid("group_size", group_size, "0, 32, 64 or 128"));
        }
        if group_size > 0 && weight_bits != WeightBits::Int4 {
            let expected = format!("0 where weight_bits is {count}");
            return Err(fields.invalid("group_size", group_size, expected));
        }
        let bits = || match fields.required_count("activation_bits", u32::MAX.into())? {
            4 => Ok(Bits::Int4),
            8 => Ok(Bits::Int8),
            other => Err(fields.invalid("activation_bits", other, "4 or 8")),
        };
        let activations = match fields.required_text("activation_scale")? {
            "dynamic" => ActivationFormat::Dynamic(bits()?),
            "static" => ActivationFormat::Static(bits()?),
            "float" => match fields.value("activation_bits") {
                None => ActivationFormat::Float,
                Some(found) => {
                    let expected = "null where activation_scale is 'float'";
                    return Err(fields.invalid("activation_bits", shortened(found), expected));
                }
            },
            other => {
                return Err(fields.invalid(
                    "activation_scale",
                    format!("'{other}'"),
                    "'dynamic', 'static' or 'float'",
                ));
            }
        };
        Ok(Self {
            weight_bits,
            weight_scale,
            group_size,
            activations,
        })
    }

    fn to_json(self) -> Value {
        json!({
            "weight_bits": self.weight_bits.count(),
            "weight_scale": match self.weight_scale {
                Granularity::PerChannel => "channel",
                Granularity::PerTensor => "tensor",
            },
            "group_size": self.group_size,
            "activation_bits": self.activations.bits().map(Bits::count),
            "activation_scale": self.activations.name(),
        })
    }
}

/// Tokens whose keys and values are stored, for sequences that begin with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPrefix {
    /// 1 to [`MAX_PREFIX_TOKENS`] ids.
    pub tokens: Vec<u32>,
}

impl KvPrefix {
    fn parse(fields: &Fields) -> Result<Self, LoadError> {
        refuse_other_keys(fields, &["tokens"])?;
        let expected = format!("1 to {MAX_PREFIX_TOKENS} token ids");
        let Some(ids) = fields.list("tokens")? else {
            return Err(fields.invalid("tokens", "nothing", expected));
        };
        if !(1..=MAX_PREFIX_TOKENS).contains(&ids.len()) {
            return Err(fields.invalid("tokens", format!("{} of them", ids.len()), expected));
        }
        let id = |id: &Value| {
            let found = id.as_u64().and_then(|id| u32::try_from(id).ok());
            found.ok_or_else(|| fields.invalid("tokens", shortened(id), "a token id"))
        };
        let tokens = ids.iter().map(id).collect::<Result<_, _>>()?;
        Ok(Self { tokens })
    }
}

/// `quantization_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationConfig {
    /// Of the format: 1 or 2.
    pub version: u32,
    /// The program that made it, for messages.
    pub producer: String,
    /// The name of the recipe that made it, for messages.
    pub recipe: String,
    pub default: LinearFormat,
    /// Linears that differ, by name: `model.layers.3.mlp.down_proj`.
    pub overrides: BTreeMap<String, LinearFormat>,
    pub kv_prefix: Option<KvPrefix>,
}

impl QuantizationConfig {
    /// Of the format's current version, written by this program.
    pub fn new(recipe: &str, default: LinearFormat) -> Self {
        Self {
            version: FORMAT_VERSION,
            producer: concat!("plateau ", env!("CARGO_PKG_VERSION")).to_owned(),
            recipe: recipe.to_owned(),
            default,
            overrides: BTreeMap::new(),
            kv_prefix: None,
        }
    }

    /// The format of the linear `name`.
    pub fn format(&self, name: &str) -> LinearFormat {
        self.overrides.get(name).copied().unwrap_or(self.default)
    }

    /// From the text of a `config.json`; `None` for a float model. A checkpoint of another method is an error that names the
    /// method: its tensors may look like floats and are not.
    pub fn parse(file: &str, json: &str) -> Result<Option<Self>, LoadError> {
        let config = Fields::parse(file, json)?;
        // The name that compressed-tensors used to write.
        if let Some(value) = config.value("compression_config") {
            return Err(config.invalid(
                "compression_config",
                shortened(value),
                format!("a float model or '{QUANT_METHOD}'"),
            ));
        }
        let Some(fields) = config.object("quantization_config")? else {
            return Ok(None);
        };
        // bitsandbytes wrote flags before there was a quant_method.
        let method = match fields.text("quant_method")? {
            Some(method) => method,
            None if fields
                .value("load_in_4bit")
                .or(fields.value("load_in_8bit"))
                .is_some() =>
            {
                "bitsandbytes"
            }
            None => {
                return Err(fields.invalid("quant_method", "nothing", format!("'{QUANT_METHOD}'")));
            }
        };
        if method != QUANT_METHOD {
            let expected = format!("a float model or '{QUANT_METHOD}'");
            return Err(fields.invalid("quant_method", format!("'{method}'"), expected));
        }
        let version = fields.required_count("version", u32::MAX.into())?;
        if !(1..=FORMAT_VERSION).contains(&version) {
            let expected = format!("1 to {FORMAT_VERSION}, which is what this program reads");
            return Err(fields.invalid("version", version, expected));
        }
        let known = [
            "quant_method",
            "version",
            "producer",
            "recipe",
            "default",
            "overrides",
            "kv_prefix",
        ];
        refuse_other_keys(&fields, &known)?;
        let mut overrides = BTreeMap::new();
        if let Some(formats) = fields.object("overrides")? {
            for name in formats.keys() {
                overrides.insert(
                    name.to_owned(),
                    LinearFormat::parse(&formats.required_object(name)?)?,
                );
            }
        }
        let kv_prefix = match fields.object("kv_prefix")? {
            None => None,
            Some(prefix) => Some(KvPrefix::parse(&prefix)?),
        };
        Ok(Some(Self {
            version,
            producer: fields.text("producer")?.unwrap_or_default().to_owned(),
            recipe: fields.text("recipe")?.unwrap_or_default().to_owned(),
            default: LinearFormat::parse(&fields.required_object("default")?)?,
            overrides,
            kv_prefix,
        }))
    }

    /// As it stands in `config.json`.
    pub fn to_json(&self) -> Value {
        let overrides = self
            .overrides
            .iter()
            .map(|(name, format)| (name.clone(), format.to_json()));
        json!({
            "quant_method": QUANT_METHOD,
            "version": self.version,
            "producer": self.producer,
            "recipe": self.recipe,
            "default": self.default.to_json(),
            "overrides": Value::Object(overrides.collect()),
            "kv_prefix": self.kv_prefix.as_ref().map(|prefix| json!({ "tokens": prefix.tokens })),
        })
    }
}

fn refuse_other_keys(fields: &Fields, known: &[&str]) -> Result<(), LoadError> {
    match fields.keys().find(|key| !known.contains(key)) {
        None => Ok(()),
        Some(key) => Err(fields.invalid(
            key,
            "a key",
            format!("only {} in version {FORMAT_VERSION}", known.join(", ")),
        )),
    }
}

/// Whether an opened checkpoint has every tensor of the format, with its shape and dtype.
pub(super) fn check_tensors(
    checkpoint: &Checkpoint,
    quantization: &QuantizationConfig,
    config_file: &str,
) -> Result<(), LoadError> {
    let config = &checkpoint.config;
    if let Some(prefix) = &quantization.kv_prefix {
        check_prefix(checkpoint, prefix, config_file)?;
    }
    let linears = config.linears();
    let names: BTreeSet<&str> = linears.iter().map(|linear| linear.name.as_str()).collect();
    if let Some(name) = quantization
        .overrides
        .keys()
        .find(|name| !names.contains(name.as_str()))
    {
        let expected = "the name of a linear of this model";
        return Err(LoadError::invalid(
            config_file,
            "quantization_config.overrides",
            format!("'{name}'"),
            expected,
        ));
    }
    let vocab = config.vocab_size.into();
    for table in config.tables() {
        let words = u64::from(padded(config.embedding_size()) / WORD_BYTES);
        checkpoint.expect_dtype(&format!("{table}.qweight"), &[vocab, words], Dtype::U32)?;
        checkpoint.expect_dtype(&format!("{table}.scales"), &[vocab], Dtype::F32)?;
    }
    for (norm, len) in config.norms() {
        checkpoint.expect_dtype(&norm, &[len.into()], Dtype::F32)?;
    }
    checkpoint.check_float_matrices()?;
    linears
        .iter()
        .try_for_each(|linear| check_linear(checkpoint, linear, quantization.format(&linear.name)))
}

fn check_prefix(
    checkpoint: &Checkpoint,
    prefix: &KvPrefix,
    config_file: &str,
) -> Result<(), LoadError> {
    let config = &checkpoint.config;
    if let Some(id) = prefix.tokens.iter().find(|&&id| id >= config.vocab_size) {
        return Err(LoadError::invalid(
            config_file,
            "quantization_config.kv_prefix.tokens",
            format!("token id {id}"),
            format!("ids of the vocabulary of {}", config.vocab_size),
        ));
    }
    let features = config.num_key_value_heads * config.head_dim;
    let shape = [prefix.tokens.len() as u64, features.into()];
    for layer in 0..config.num_hidden_layers {
        for name in config.kv_prefix_tensors(layer) {
            checkpoint.expect_dtype(&name, &shape, Dtype::F32)?;
        }
    }
    let hidden = config.hidden_prefix_tensor();
    if checkpoint.tensors.contains_key(hidden) {
        let shape = [prefix.tokens.len() as u64, config.hidden_size.into()];
        checkpoint.expect_dtype(hidden, &shape, Dtype::F32)?;
        if prefix.tokens.len() > 1 {
            return Err(LoadError::invalid(
                config_file,
                "quantization_config.kv_prefix.tokens",
                format!("{} ids", prefix.tokens.len()),
                format!("one, since there is a tensor '{hidden}'"),
            ));
        }
    }
    Ok(())
}

fn check_linear(
    checkpoint: &Checkpoint,
    linear: &LinearShape,
    format: LinearFormat,
) -> Result<(), LoadError> {
    let LinearShape {
        name,
        in_features,
        out_features,
        bias,
    } = linear;
    let out = u64::from(*out_features);
    let extra = match format.activations {
        ActivationFormat::Float | ActivationFormat::Dynamic(_) => 0,
        ActivationFormat::Static(_) => {
            checkpoint.expect_dtype(&format!("{name}.input_scale"), &[1], Dtype::F32)?;
            checkpoint.expect_dtype(
                &format!("{name}.flatten_index"),
                &[(*in_features).into(), 2],
                Dtype::U32,
            )?;
            checkpoint.num_extra_channels(name, *in_features)?
        }
    };
    let flat = in_features + extra;
    checkpoint.expect_dtype(
        &format!("{name}.qweight"),
        &[out, format.row_words(flat).into()],
        Dtype::U32,
    )?;
    if format.weight_bits.high_bits() > 0 {
        let words = format.high_row_words(flat).into();
        checkpoint.expect_dtype(&format!("{name}.qweight_high"), &[out, words], Dtype::U32)?;
    }
    checkpoint.expect_dtype(
        &format!("{name}.scales"),
        &[format.num_scales(*out_features).into()],
        Dtype::F32,
    )?;
    if format.group_size > 0 {
        let words = format.multiplier_words(flat).into();
        checkpoint.expect_dtype(&format!("{name}.multipliers"), &[out, words], Dtype::U32)?;
    }
    if *bias {
        checkpoint.expect_dtype(&format!("{name}.bias"), &[out], Dtype::F32)?;
    }
    checkpoint.check_bias(name, *out_features, *bias)
}

impl Checkpoint {
    /// This checkpoint's `config.json` with a `quantization_config`: what the quantized checkpoint has.
    pub async fn config_with(&self, quantization: &QuantizationConfig) -> Result<Value, LoadError> {
        let source = self.folder.open("config.json")?;
        let text = source.read_text(MAX_CONFIG_BYTES).await?;
        let invalid = |found: String| LoadError::invalid(source.name(), "JSON", found, "an object");
        let mut config: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        config.insert("quantization_config".to_owned(), quantization.to_json());
        Ok(Value::Object(config))
    }

    /// How many flat channels linear `name` has beyond its own: the length of its flatten map, bounded.
    fn num_extra_channels(&self, name: &str, in_features: u32) -> Result<u32, LoadError> {
        let map = format!("{name}.flatten_map");
        // A missing map is the same error as elsewhere; any length is right up to the bound.
        let len = self.tensors.get(&map).map_or(0, |info| info.elements());
        let info = self.expect_dtype(&map, &[len], Dtype::U32)?;
        let room = MAX_FEATURES - u64::from(in_features);
        match u32::try_from(len) {
            Ok(extra) if len <= room => Ok(extra),
            _ => Err(self.bad_tensor(&map, info, "length of", len, format!("at most {room}"))),
        }
    }

    /// The flatten map of a linear with static activations, in the form that the kernel `flatten_quantize` binds:
    /// the number of parts of each of `in_features` channels, then the word of each extra channel. Checked against its inverse.
    pub async fn read_flatten_map(
        &self,
        name: &str,
        in_features: u32,
    ) -> Result<Vec<u32>, LoadError> {
        let extra = self.num_extra_channels(name, in_features)?;
        let tensor = format!("{name}.flatten_map");
        let map = self.read_u32(&tensor, 0, extra as usize).await?;
        let index = self
            .read_u32(
                &format!("{name}.flatten_index"),
                0,
                2 * in_features as usize,
            )
            .await?;
        check_flatten_map(&map, &index).map_err(|wrong| {
            LoadError::invalid(
                self.folder.name(),
                format!("tensor '{tensor}': {}", wrong.what),
                wrong.found,
                wrong.expected,
            )
        })
    }

    /// How the weight `name` is stored; `None` for one that is float.
    pub fn stored_format(&self, name: &str) -> Option<LinearFormat> {
        let quantization = self.quantization.as_ref()?;
        if self.config.tables().contains(&name) {
            return Some(TABLE_FORMAT);
        }
        let mut floats = self.config.float_matrices().into_iter();
        match floats.any(|(float, _)| float == name) {
            true => None,
            false => Some(quantization.format(name)),
        }
    }

    /// Rows of the weight `name`, which has `format`, as a device holds them: [`WeightBits::on_device`]. An integer that is out
    /// of range is an error.
    pub async fn read_weight(
        &self,
        name: &str,
        format: LinearFormat,
        flat_features: u32,
        rows: Range<usize>,
    ) -> Result<Vec<u32>, LoadError> {
        let tensor = format!("{name}.qweight");
        let row_words = format.row_words(flat_features) as usize;
        let first = (rows.start * row_words) as u64;
        let mut words = self
            .read_u32(&tensor, first, rows.len() * row_words)
            .await?;
        let high_words = format.high_row_words(flat_features) as usize;
        if high_words > 0 {
            let high = format!("{name}.qweight_high");
            let first = (rows.start * high_words) as u64;
            let high = self.read_u32(&high, first, rows.len() * high_words).await?;
            let high_bits = format.weight_bits.high_bits() as usize;
            let mut integers = vec![0; padded(flat_features) as usize];
            let nibbles = words.chunks_exact(row_words);
            let planes = nibbles.zip(high.chunks_exact(high_words));
            let expanded = planes.flat_map(|(nibbles, high)| {
                pack::unpack_planes(nibbles, high, high_bits, &mut integers);
                pack::pack_i8(&integers)
            });
            words = expanded.collect();
        }
        match (
            out_of_range(&words, format.weight_bits),
            self.tensors.get(&tensor),
        ) {
            (Some(at), Some(info)) => {
                let row = rows.start + at / (words.len() / rows.len());
                let q_max = format.weight_bits.q_max();
                let found = format!("-{}", q_max + 1);
                let expected = format!("integers from -{q_max} to {q_max}");
                Err(self.bad_tensor(&tensor, info, &format!("row {row} of"), found, expected))
            }
            _ => Ok(words),
        }
    }

    /// The scale of a linear's static activations: above 0, and its inverse is finite too.
    pub async fn read_input_scale(&self, name: &str) -> Result<f32, LoadError> {
        let name = format!("{name}.input_scale");
        let scale = self.read_scales(&name, 1).await?[0];
        match self.tensors.get(&name) {
            Some(info) if !(1.0 / scale).is_finite() => {
                let expected = "a scale above 0 with a finite inverse";
                Err(self.bad_tensor(&name, info, "element 0 of", scale, expected))
            }
            _ => Ok(scale),
        }
    }

    /// `len` scales: finite and not negative.
    pub async fn read_scales(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let scales = self.read_f32(name, 0, len).await?;
        match (
            scales.iter().position(|&scale| scale < 0.0),
            self.tensors.get(name),
        ) {
            (Some(at), Some(info)) => Err(self.bad_tensor(
                name,
                info,
                &format!("element {at} of"),
                scales[at],
                "a scale of 0 or more",
            )),
            _ => Ok(scales),
        }
    }
}

/// The first of a device's words that has an integer outside of the symmetric range: a byte or nibble can be one too low.
fn out_of_range(words: &[u32], bits: WeightBits) -> Option<usize> {
    match bits.on_device() {
        Bits::Int4 => {
            // A nibble of 0 borrows from its highest bit, which was not set.
            const ONES: u32 = 0x1111_1111;
            words
                .iter()
                .position(|word| word.wrapping_sub(ONES) & !word & (ONES << 3) != 0)
        }
        Bits::Int8 => {
            let least = -(bits.q_max() as i32) - 1;
            words
                .iter()
                .position(|word| word.to_le_bytes().contains(&(least as u8)))
        }
    }
}

/// What is wrong with a flatten map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFlattenMap {
    pub what: String,
    pub found: String,
    pub expected: String,
}

/// Whether a flatten map `[extra]` and its inverse `[in, 2]` agree. Returns the number of parts of each channel and then the map:
/// what the kernel `flatten_quantize` binds.
pub fn check_flatten_map(map: &[u32], index: &[u32]) -> Result<Vec<u32>, BadFlattenMap> {
    let mut kernel = Vec::with_capacity(index.len() / 2 + map.len());
    let mut named = vec![false; map.len()];
    for (channel, row) in index.chunks_exact(2).enumerate() {
        let extras = extras_of(map, channel, row[0], row[1])?;
        kernel.push(num_parts(map, channel, extras.clone())?);
        named[extras].fill(true);
    }
    let stray = (0..map.len()).find(|&extra| !named[extra] && map[extra] != FLATTEN_PADDING);
    if let Some(extra) = stray {
        return Err(BadFlattenMap {
            what: format!("extra channel {extra}, which flatten_index does not name"),
            found: format!("0x{:08x}", map[extra]),
            expected: format!("0x{FLATTEN_PADDING:08x}"),
        });
    }
    kernel.extend_from_slice(map);
    Ok(kernel)
}

/// The range of the map that a row of the inverse names.
fn extras_of(
    map: &[u32],
    channel: usize,
    first: u32,
    count: u32,
) -> Result<Range<usize>, BadFlattenMap> {
    if count == 0 && first != 0 {
        return Err(BadFlattenMap {
            what: format!("first extra channel of channel {channel}, which has none"),
            found: first.to_string(),
            expected: "0".to_owned(),
        });
    }
    let end = u64::from(first) + u64::from(count);
    if end > map.len() as u64 {
        return Err(BadFlattenMap {
            what: format!("end of the extra channels of channel {channel}"),
            found: end.to_string(),
            expected: format!("at most {}, the map's length", map.len()),
        });
    }
    Ok(first as usize..end as usize)
}

/// The number of parts of a channel whose extra channels are `extras` of the map.
fn num_parts(map: &[u32], channel: usize, extras: Range<usize>) -> Result<u32, BadFlattenMap> {
    let mut last = 0;
    for extra in extras {
        let word = map[extra];
        let (source, part) = (word & ((1 << SOURCE_BITS) - 1), word >> SOURCE_BITS);
        // No part is left out: the next one is a repeat or one more.
        if source as usize != channel || !(last..=last + 1).contains(&part) || part >= MAX_PARTS {
            let expected = match last + 1 {
                MAX_PARTS => format!("part {last} of channel {channel}"),
                next => format!("part {last} or {next} of channel {channel}"),
            };
            return Err(BadFlattenMap {
                what: format!("extra channel {extra}, one of channel {channel}'s by flatten_index"),
                found: format!("0x{word:08x} (part {part} of channel {source})"),
                expected,
            });
        }
        last = part;
    }
    Ok(last + 1)
}
