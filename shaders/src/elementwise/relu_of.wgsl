// The positive part of x. A comparison and not max: NaN stays NaN, and -0 becomes 0.
fn relu_of(x: f32) -> f32 {
  return select(x, 0.0, x <= 0.0);
}
