// SwiGLU's product: silu(gate) * up, silu(g) = g / (1 + exp(-g)).

fn silu_mul_of(gate: f32, up: f32) -> f32 {
  return gate / (1.0 + exp(-gate)) * up;
}
