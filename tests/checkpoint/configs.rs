//! `config.json` and `generation_config.json`.

use crate::files::{assert_refused, open, tiny};
use plateau::checkpoint::{
    Architecture, Family, Fold, GenerationConfig, LlamaConfig, LoadError, LoadErrorKind,
    ModelConfig, OptConfig, RopeConfig, RopeScaling,
};
use plateau_tests::tolerance::SAME_FORMULA;
use serde_json::{Value, json};

fn config(changes: Value) -> Result<ModelConfig, LoadError> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": 100, "max_position_embeddings": 128,
    });
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            // A test's word for "not there".
            Value::String(absent) if absent == "ABSENT" => {
                drop(config.as_object_mut().expect("an object").remove(key))
            }
            value => config[key] = value.clone(),
        }
    }
    ModelConfig::parse("dir/config.json", &config.to_string())
}

#[track_caller]
fn valid(changes: Value) -> ModelConfig {
    config(changes).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn llama_of(config: &ModelConfig) -> LlamaConfig {
    match config.architecture {
        Architecture::Llama(llama) => llama,
        Architecture::Opt(_) => panic!("{}", config.family.name()),
    }
}

#[track_caller]
fn refused(changes: Value, parts: &[&str]) {
    let parts: Vec<&str> = ["dir/config.json"].iter().chain(parts).copied().collect();
    assert_refused(config(changes), LoadErrorKind::Invalid, &parts);
}

#[test]
fn defaults_are_those_of_transformers() {
    let llama = valid(json!({}));
    assert_eq!(llama.head_dim, 16);
    assert_eq!(llama.num_key_value_heads, 4);
    assert_eq!(
        llama_of(&llama).rope,
        RopeConfig {
            theta: 10000.0,
            scaling: RopeScaling::Default
        }
    );
    assert_eq!(llama.windows, [None; 3]);
    assert_eq!(llama_of(&llama).rms_norm_eps, 1e-6);
    assert!(
        !llama.qkv_bias
            && !llama.output_bias
            && !llama.mlp_bias
            && !llama_of(&llama).qk_norm
            && !llama.tie_word_embeddings
    );

    let null = valid(
        json!({ "head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "sliding_window": null }),
    );
    assert_eq!(null, llama);
}

#[test]
fn families_differ_as_in_transformers() {
    let llama = valid(json!({ "attention_bias": true, "mlp_bias": true, "rms_norm_eps": 1e-05 }));
    assert!(llama.qkv_bias && llama.output_bias && llama.mlp_bias);
    assert_eq!(llama_of(&llama).rms_norm_eps, 1e-5);

    let mistral =
        valid(json!({ "model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 9 }));
    assert_eq!(
        (mistral.family, mistral.num_key_value_heads),
        (Family::Mistral, 2)
    );
    assert_eq!(mistral.windows, [Some(9); 3]);
    assert_eq!(
        valid(json!({ "model_type": "mistral" })).windows,
        [Some(4096); 3]
    );
    assert_eq!(
        valid(json!({ "model_type": "mistral", "sliding_window": null })).windows,
        [None; 3]
    );

    let qwen2 = valid(
        json!({ "model_type": "qwen2", "sliding_window": 9, "max_window_layers": 1, "tie_word_embeddings": true }),
    );
    assert!(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.mlp_bias && qwen2.tie_word_embeddings);
    assert_eq!(qwen2.windows, [None; 3], "use_sliding_window is false");
    let used = json!({ "model_type": "qwen2", "sliding_window": 9, "max_window_layers": 1, "use_sliding_window": true });
    assert_eq!(valid(used).windows, [None, Some(9), Some(9)]);
    let typed = json!({
        "model_type": "qwen2", "sliding_window": 9, "use_sliding_window": true,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    });
    assert_eq!(valid(typed).windows, [Some(9), None, Some(9)]);

    let qwen3 = valid(json!({ "model_type": "qwen3", "head_dim": 20 }));
    assert!(llama_of(&qwen3).qk_norm && !qwen3.qkv_bias);
    assert_eq!(qwen3.head_dim, 20);
    assert_eq!(valid(json!({ "model_type": "qwen3" })).head_dim, 128);
    assert!(valid(json!({ "model_type": "qwen3", "attention_bias": true })).output_bias);
}

#[test]
fn layer_types_that_mean_something_else_are_refused() {
    refused(
        json!({ "layer_types": (["full_attention"; 2]) }),
        &["layer_types", "found 2 layers", "expected 3"],
    );
    refused(
        json!({ "layer_types": (["sliding_attention"; 3]) }),
        &["layer_types of layer 0", "no sliding window"],
    );
    let types = ["full_attention", "full_attention", "linear_attention"];
    refused(
        json!({ "model_type": "qwen3", "layer_types": types }),
        &["layer_types of layer 2", "linear_attention"],
    );
}

#[test]
fn an_unknown_architecture_says_which_are_known() {
    refused(
        json!({ "model_type": "gpt2" }),
        &[
            "model_type",
            "found 'gpt2'",
            "llama, mistral, qwen2, qwen3, opt",
        ],
    );
    refused(
        json!({ "model_type": "ABSENT" }),
        &["model_type", "found nothing"],
    );
    refused(
        json!({ "model_type": 3 }),
        &["model_type", "found 3", "a string"],
    );
}

#[test]
fn sizes_that_are_zero_negative_fractional_or_enormous_are_refused() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ];
    for size in sizes {
        let bad = [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(4_000_000_000_u64),
            json!(u64::MAX),
            json!(1e30),
            json!("64"),
            json!([]),
        ];
        for bad in bad {
            let found = format!("found {}", bad);
            refused(
                json!({ size: bad }),
                &[size, &found, "a whole number from 1 to"],
            );
        }
    }
    for required in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ] {
        refused(
            json!({ required: "ABSENT" }),
            &[required, "found nothing", "a whole number"],
        );
    }
    refused(
        json!({ "rms_norm_eps": 0 }),
        &["rms_norm_eps", "found 0", "between 0 and 1"],
    );
    refused(
        json!({ "rms_norm_eps": -1e-5 }),
        &["rms_norm_eps", "between 0 and 1"],
    );
    refused(
        json!({ "rms_norm_eps": 1e-60 }),
        &["rms_norm_eps", "between 0 and 1"],
    );
    refused(
        json!({ "rope_theta": -1 }),
        &["rope_theta", "found -1", "positive"],
    );
}

#[test]
fn heads_have_to_divide() {
    refused(
        json!({ "num_key_value_heads": 3 }),
        &[
            "num_key_value_heads",
            "found 3",
            "divisor of num_attention_heads, 4",
        ],
    );
    refused(
        json!({ "num_attention_heads": 5 }),
        &[
            "num_attention_heads",
            "found 5",
            "divisor of hidden_size, 64",
        ],
    );
    refused(json!({ "head_dim": 15 }), &["head_dim", "found 15", "even"]);
    refused(
        json!({ "num_attention_heads": 1, "hidden_size": 512 }),
        &["head_dim", "found 512", "up to 256"],
    );
    refused(
        json!({ "num_attention_heads": 1024, "head_dim": 256 }),
        &["num_attention_heads * head_dim", "found 262144"],
    );
}

#[test]
fn keys_that_change_the_mathematics_are_refused() {
    refused(
        json!({ "hidden_act": "gelu" }),
        &["hidden_act", "found 'gelu'", "'silu'"],
    );
    refused(
        json!({ "partial_rotary_factor": 0.5 }),
        &["partial_rotary_factor", "found 0.5"],
    );
    refused(
        json!({ "attention_bias": "yes" }),
        &["attention_bias", "found \"yes\"", "true or false"],
    );
}

/// The changes to a config of OPT with three layers, whose keys are other ones.
fn opt(changes: Value) -> Value {
    let mut config = json!({ "model_type": "opt", "intermediate_size": "ABSENT", "ffn_dim": 96 });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

#[track_caller]
fn opt_of(config: &ModelConfig) -> OptConfig {
    match config.architecture {
        Architecture::Opt(opt) => opt,
        Architecture::Llama(_) => panic!("{}", config.family.name()),
    }
}

#[test]
fn opt_has_the_defaults_of_transformers() {
    let config = valid(opt(json!({})));
    assert_eq!((config.family, config.intermediate_size), (Family::Opt, 96));
    assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
    assert!(config.qkv_bias && config.output_bias && config.mlp_bias);
    assert!(config.tie_word_embeddings);
    assert_eq!(config.windows, [None; 3]);
    let expected = OptConfig {
        word_embed_proj_dim: 64,
        do_layer_norm_before: true,
        final_layer_norm: true,
        layer_norm_elementwise_affine: true,
    };
    assert_eq!(opt_of(&config), expected);
    let null = opt(json!({ "word_embed_proj_dim": null, "activation_function": null }));
    assert_eq!(valid(null), config);
}

#[test]
fn opts_variants_are_told_apart() {
    let post = valid(opt(
        json!({ "do_layer_norm_before": false, "word_embed_proj_dim": 20 }),
    ));
    assert!(!opt_of(&post).do_layer_norm_before && !opt_of(&post).final_layer_norm);
    assert_eq!(post.embedding_size(), 20);
    let bare = valid(opt(json!({
        "_remove_final_layer_norm": true, "enable_bias": false, "layer_norm_elementwise_affine": false,
        "tie_word_embeddings": false,
    })));
    assert!(opt_of(&bare).do_layer_norm_before && !opt_of(&bare).final_layer_norm);
    assert!(!opt_of(&bare).layer_norm_elementwise_affine && !bare.tie_word_embeddings);
    assert!(!bare.qkv_bias && !bare.output_bias && !bare.mlp_bias);
}

#[test]
fn opt_configs_that_mean_something_else_are_refused() {
    refused(
        opt(json!({ "activation_function": "gelu" })),
        &["activation_function", "found 'gelu'", "'relu'"],
    );
    refused(
        opt(json!({ "scale_embeddings": true })),
        &["scale_embeddings", "found true", "expected false"],
    );
    refused(
        opt(json!({ "learned_embeddings": false })),
        &["learned_embeddings", "found false", "expected true"],
    );
    refused(
        opt(json!({ "num_attention_heads": 5 })),
        &[
            "num_attention_heads",
            "found 5",
            "divisor of hidden_size, 64",
        ],
    );
    for (key, bad) in [
        ("ffn_dim", json!("ABSENT")),
        ("ffn_dim", json!(0)),
        ("word_embed_proj_dim", json!(0)),
        ("max_position_embeddings", json!("ABSENT")),
        ("vocab_size", json!(-1)),
    ] {
        refused(opt(json!({ key: bad })), &[key, "a whole number from 1 to"]);
    }
    for flag in [
        "do_layer_norm_before",
        "_remove_final_layer_norm",
        "enable_bias",
        "layer_norm_elementwise_affine",
        "tie_word_embeddings",
    ] {
        refused(
            opt(json!({ flag: "yes" })),
            &[flag, "found \"yes\"", "true or false"],
        );
    }
}

/// The linears of a layer by what they share, their input's width and what precedes.
fn groups(config: &ModelConfig, prefix: &str) -> Vec<(Vec<String>, u32, Fold)> {
    let groups = config.layer_groups(1).into_iter().map(|group| {
        let names = group.linears.iter().map(|linear| {
            assert_eq!(linear.in_features, group.in_features);
            let name = linear.name.strip_prefix(prefix);
            name.expect("a name of this layer").to_owned()
        });
        (names.collect(), group.in_features, group.fold)
    });
    groups.collect()
}

fn norm_fold(name: &str, bias: bool) -> Fold {
    Fold::Norm {
        weight: format!("{name}.weight"),
        bias: bias.then(|| format!("{name}.bias")),
    }
}

fn linear_fold(name: &str, bias: bool, per_head: bool) -> Fold {
    Fold::Linear {
        name: name.to_owned(),
        bias,
        per_head,
    }
}

#[test]
fn groups_say_which_linears_share_an_input_and_what_precedes_them() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|&n| n.to_owned()).collect() };
    let llama = valid(json!({ "num_key_value_heads": 2, "head_dim": 10 }));
    let layer = "model.layers.1.";
    let expected = [
        (
            names(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            64,
            norm_fold("model.layers.1.input_layernorm", false),
        ),
        (
            names(&["self_attn.o_proj"]),
            40,
            linear_fold("model.layers.1.self_attn.v_proj", false, true),
        ),
        (
            names(&["mlp.gate_proj", "mlp.up_proj"]),
            64,
            norm_fold("model.layers.1.post_attention_layernorm", false),
        ),
        (
            names(&["mlp.down_proj"]),
            96,
            linear_fold("model.layers.1.mlp.up_proj", false, false),
        ),
    ];
    assert_eq!(groups(&llama, layer), expected);

    let layer = "model.decoder.layers.1.";
    let name = |name: &str| format!("{layer}{name}");
    let qkv = names(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    for (changes, bias, folds) in [
        (json!({}), true, true),
        (json!({ "enable_bias": false }), false, true),
        (json!({ "do_layer_norm_before": false }), true, false),
        (
            json!({ "layer_norm_elementwise_affine": false }),
            true,
            false,
        ),
    ] {
        let norm = |of: &str| match folds {
            true => norm_fold(&name(of), true),
            false => Fold::None,
        };
        let value = linear_fold(&name("self_attn.v_proj"), bias, true);
        let fc1 = linear_fold(&name("fc1"), bias, false);
        assert_eq!(
            groups(&valid(opt(changes)), layer),
            [
                (qkv.clone(), 64, norm("self_attn_layer_norm")),
                (names(&["self_attn.out_proj"]), 64, value),
                (names(&["fc1"]), 64, norm("final_layer_norm")),
                (names(&["fc2"]), 96, fc1),
            ]
        );
    }
}

#[test]
fn text_that_is_no_config_is_refused() {
    for (text, found) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "found []"),
        ("null", "found null"),
        ("{\"a\": NaN}", "expected value"),
    ] {
        assert_refused(
            ModelConfig::parse("config.json", text),
            LoadErrorKind::Invalid,
            &["config.json", found, "an object"],
        );
    }
    let deep = format!("{{\"a\": {}", "[".repeat(100_000));
    assert_refused(
        ModelConfig::parse("config.json", &deep),
        LoadErrorKind::Invalid,
        &["config.json", "recursion"],
    );
    let folder = tiny().write();
    std::fs::write(
        folder.path().join("config.json"),
        b"{\"model_type\": \"\xff\"}",
    )
    .expect("written");
    assert_refused(
        open(folder.path()),
        LoadErrorKind::Invalid,
        &["config.json", "not UTF-8 at 16"],
    );
    std::fs::remove_file(folder.path().join("config.json")).expect("removed");
    assert_refused(
        open(folder.path()),
        LoadErrorKind::NotFound,
        &["config.json", "not found"],
    );
}

#[test]
fn rope_is_read_in_the_old_form_and_the_new() {
    let linear = RopeScaling::Linear { factor: 4.0 };
    for scaling in [
        json!({ "type": "linear", "factor": 4 }),
        json!({ "rope_type": "linear", "factor": 4.0 }),
    ] {
        let config = valid(json!({ "rope_theta": 5e5, "rope_scaling": scaling }));
        let rope = llama_of(&config).rope;
        assert_eq!(
            rope,
            RopeConfig {
                theta: 5e5,
                scaling: linear
            }
        );
    }
    let new =
        json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "linear", "factor": 4 } });
    assert_eq!(
        llama_of(&valid(new)).rope,
        RopeConfig {
            theta: 5e5,
            scaling: linear
        }
    );
    let default = json!({ "rope_parameters": { "rope_theta": 3.0, "rope_type": "default" } });
    assert_eq!(
        llama_of(&valid(default)).rope,
        RopeConfig {
            theta: 3.0,
            scaling: RopeScaling::Default
        }
    );
    assert_eq!(
        llama_of(&valid(json!({ "rope_parameters": { "rope_theta": 3.0 } })))
            .rope
            .theta,
        3.0
    );
}

#[test]
fn rope_that_is_not_known_is_refused_by_name() {
    for name in ["yarn", "dynamic", "longrope", "su", "mrope"] {
        let scaling = json!({ "rope_scaling": { "type": name, "factor": 2.0 } });
        refused(
            scaling,
            &[
                "rope_scaling.rope_type",
                &format!("found '{name}'"),
                "default, linear, llama3",
            ],
        );
    }
    refused(
        json!({ "rope_scaling": { "factor": 2.0 } }),
        &["rope_scaling.rope_type", "'factor'"],
    );
    refused(
        json!({ "rope_scaling": { "type": "linear" } }),
        &["rope_scaling.factor", "found nothing"],
    );
    refused(
        json!({ "rope_scaling": { "type": "linear", "factor": 0 } }),
        &["rope_scaling.factor", "found 0", "positive"],
    );
    let by_layer = json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } });
    refused(by_layer, &["rope_parameters.rope_type", "'full_attention'"]);
    let llama3 = json!({ "rope_scaling": {
        "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 8192,
    } });
    refused(
        llama3,
        &[
            "rope_scaling.high_freq_factor",
            "found 4",
            "more than low_freq_factor",
        ],
    );
}

#[test]
fn inverse_frequencies_are_those_of_the_reference() {
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() <= SAME_FORMULA.relative * expected,
            "{found} {expected}"
        )
    };
    let plain = RopeConfig {
        theta: 500_000.0,
        scaling: RopeScaling::Default,
    }
    .inverse_frequencies(128);
    assert_eq!(plain.len(), 64);
    assert_eq!(plain[0], 1.0);
    close(plain[32], 500_000_f64.powf(-0.5));

    let linear = RopeConfig {
        theta: 500_000.0,
        scaling: RopeScaling::Linear { factor: 4.0 },
    };
    for (scaled, plain) in linear.inverse_frequencies(128).into_iter().zip(&plain) {
        close(scaled, plain / 4.0);
    }

    // Llama 3.1's own values.
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let llama3 = RopeConfig {
        theta: 500_000.0,
        scaling,
    }
    .inverse_frequencies(128);
    // Wavelengths below 8192 / 4 are left alone, those above 8192 are stretched, those between are blended.
    let mut kinds = [0; 3];
    for (&found, &plain) in llama3.iter().zip(&plain) {
        let wavelength = 2.0 * std::f64::consts::PI / plain;
        if wavelength < 2048.0 {
            assert_eq!(found, plain);
            kinds[0] += 1;
        } else if wavelength > 8192.0 {
            assert_eq!(found, plain / 8.0);
            kinds[1] += 1;
        } else {
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            close(found, plain * ((1.0 - smooth) / 8.0 + smooth));
            kinds[2] += 1;
        }
    }
    assert_eq!(kinds, [29, 29, 6]);
}

#[test]
fn end_tokens_are_a_number_or_a_list_and_fall_back_to_the_config() {
    let parse = |generation: Option<&str>, config: &str| {
        GenerationConfig::parse(
            generation.map(|text| ("generation_config.json", text)),
            ("config.json", config),
        )
    };
    let from = |generation, config| parse(generation, config).expect("valid");
    assert_eq!(
        from(Some(r#"{"eos_token_id": 7, "bos_token_id": 1}"#), "{}").eos_token_ids,
        [7]
    );
    assert_eq!(
        from(
            Some(r#"{"eos_token_id": [7, 9]}"#),
            r#"{"eos_token_id": 2}"#
        )
        .eos_token_ids,
        [7, 9]
    );
    let fallen = from(
        Some("{}"),
        r#"{"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": -1}"#,
    );
    assert_eq!(
        fallen,
        GenerationConfig {
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: None
        }
    );
    assert_eq!(from(None, "{}"), GenerationConfig::default());
    for bad in ["-2", "1.5", "\"x\"", "[1, -1]", "5000000000"] {
        let text = format!(r#"{{"eos_token_id": {bad}}}"#);
        let parts = ["generation_config.json", "eos_token_id", "a token id"];
        assert_refused(parse(Some(&text), "{}"), LoadErrorKind::Invalid, &parts);
    }
}
