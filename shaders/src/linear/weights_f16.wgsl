// Weights of a float linear as halves: [out_features, padded(in_features) / 2] u32, two per word.

@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;

// Four features of the weights of output o.
fn load_w(o: u32, quad: u32) -> vec4<f32> {
  let words = w[o * num_steps() * STEP_QUADS + quad];
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
