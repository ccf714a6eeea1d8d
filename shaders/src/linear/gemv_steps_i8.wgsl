// K steps of the INT8 GEMVs by subgroups, sixteen features each: gemv_i8.wgsl has the shapes.

@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;

struct XStep {
  words: vec4<u32>,
}

struct WStep {
  words: vec4<u32>,
}

fn num_steps() -> u32 {
  return in_words() / 4u;
}

fn x_step(row: u32, step: u32) -> XStep {
  return XStep(x_vec(row, step));
}

fn w_step(out: u32, step: u32) -> WStep {
  return WStep(w[out * num_steps() + step]);
}

fn dot_step(x: XStep, w: WStep) -> i32 {
  return dot16(x.words, w.words);
}
