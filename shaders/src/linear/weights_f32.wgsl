// Weights of a float linear as f32: [out_features, padded(in_features)].

@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;

// Four features of the weights of output o.
fn load_w(o: u32, quad: u32) -> vec4<f32> {
  return w[o * num_steps() * STEP_QUADS + quad];
}
