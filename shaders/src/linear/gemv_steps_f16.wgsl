// A step of the weights of gemv.wgsl as halves: [out_features, padded(in_features) / 2] u32, two per word.

@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;

// 32 features.
struct WStep {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}

fn load_step(o: u32, step: u32) -> WStep {
  let at = (o * num_steps() + step) * 4u;
  return WStep(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
}

fn halves(words: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn quad_0(w: WStep) -> vec4<f32> {
  return halves(w.a.xy);
}

fn quad_1(w: WStep) -> vec4<f32> {
  return halves(w.a.zw);
}

fn quad_2(w: WStep) -> vec4<f32> {
  return halves(w.b.xy);
}

fn quad_3(w: WStep) -> vec4<f32> {
  return halves(w.b.zw);
}

fn quad_4(w: WStep) -> vec4<f32> {
  return halves(w.c.xy);
}

fn quad_5(w: WStep) -> vec4<f32> {
  return halves(w.c.zw);
}

fn quad_6(w: WStep) -> vec4<f32> {
  return halves(w.d.xy);
}

fn quad_7(w: WStep) -> vec4<f32> {
  return halves(w.d.zw);
}
