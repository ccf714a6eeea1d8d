//! How the next token is chosen. The choosing itself runs on the device: `shaders/src/sampling`.

/// Applied in llama.cpp's order: repeat penalty, top-k, top-p, min-p, temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig {
    /// 0 is greedy: the most likely token, the lowest id among equals.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
    pub repeat_penalty: f32,
    pub seed: u64,
}

impl SamplerConfig {
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed: 0,
    };
}

/// Tokens back from the present one to which the repeat penalty applies (llama.cpp's `--repeat-last-n`).
pub const REPEAT_WINDOW: u32 = 64;
