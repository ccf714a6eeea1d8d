// Parameters, the bindings that all integer linears share, and what happens to an accumulator.

// 1 stores the accumulators themselves, as bits: the tap with which tests compare integers.
override RAW_ACCUMULATORS: u32 = 0u;

struct Params {
  rows: u32,
  in_words: u32,
  out_features: u32,
  first_out: u32,
  out_stride: u32,
  x_scale_stride: u32,
  w_scale_stride: u32,
  has_bias: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_q: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x_scale: array<f32>;
@group(0) @binding(4) var<storage, read> aux: array<u32>;
// f32; as words, so that no adapter touches the bits of a raw accumulator.
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

// The words of a row of x where they are a constant, 0 where only `params` has them: a width that is known leaves loops without ends to look for.
override IN_WORDS: u32 = 0u;

fn in_words() -> u32 {
  return select(IN_WORDS, params.in_words, IN_WORDS == 0u);
}

// Word of `aux` after the weight scales.
fn aux_bias() -> u32 {
  return select(1u, params.out_features, params.w_scale_stride != 0u);
}

// What becomes of an accumulator.
struct Factor {
  scale: f32,
  bias: f32,
  // What is there, where it is added to.
  before: u32,
}

fn load_factor(row: u32, out: u32) -> Factor {
  let scale = x_scale[row * params.x_scale_stride] * bitcast<f32>(aux[out * params.w_scale_stride]);
  var bias = 0.0;
  if (params.has_bias != 0u) {
    bias = bitcast<f32>(aux[aux_bias() + out]);
  }
  var before = 0u;
  if (params.accumulate != 0u) {
    before = y[row * params.out_stride + params.first_out + out];
  }
  return Factor(scale, bias, before);
}

// y[row, first_out + out] = acc * scales + bias, or added to what is there. Call it for outputs in range only.
fn store_by(factor: Factor, row: u32, out: u32, acc: i32) {
  var value = bitcast<u32>(acc);
  if (RAW_ACCUMULATORS == 0u) {
    var scaled = fma(f32(acc), factor.scale, factor.bias);
    if (params.accumulate != 0u) {
      scaled = bitcast<f32>(factor.before) + scaled;
    }
    value = bitcast<u32>(scaled);
  }
  y[row * params.out_stride + params.first_out + out] = value;
}

fn store_accumulator(row: u32, out: u32, acc: i32) {
  store_by(load_factor(row, out), row, out, acc);
}
