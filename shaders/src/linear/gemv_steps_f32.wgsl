// A step of the weights of gemv.wgsl as they are: [out_features, padded(in_features)] f32.

@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;

// 32 features.
struct WStep {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
  e: vec4<f32>,
  f: vec4<f32>,
  g: vec4<f32>,
  h: vec4<f32>,
}

fn load_step(o: u32, step: u32) -> WStep {
  let at = (o * num_steps() + step) * STEP_QUADS;
  return WStep(w[at], w[at + 1u], w[at + 2u], w[at + 3u], w[at + 4u], w[at + 5u], w[at + 6u], w[at + 7u]);
}

fn quad_0(w: WStep) -> vec4<f32> {
  return w.a;
}

fn quad_1(w: WStep) -> vec4<f32> {
  return w.b;
}

fn quad_2(w: WStep) -> vec4<f32> {
  return w.c;
}

fn quad_3(w: WStep) -> vec4<f32> {
  return w.d;
}

fn quad_4(w: WStep) -> vec4<f32> {
  return w.e;
}

fn quad_5(w: WStep) -> vec4<f32> {
  return w.f;
}

fn quad_6(w: WStep) -> vec4<f32> {
  return w.g;
}

fn quad_7(w: WStep) -> vec4<f32> {
  return w.h;
}
