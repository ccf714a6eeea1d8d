// y[t, first_out + o] = sum over k of x[t, k] * w[o, k] + bias[o], or += where params.accumulate is 1
//
//   x    [rows, in_features]                  f32
//   w    [out_features, padded(in_features)]  zeros after in_features: weights_f32.wgsl, weights_f16.wgsl
//   aux  [out_features] f32, the bias, if params.has_bias; else anything
//   y    [rows, out_stride]                   f32
//
// One order of sums, whatever the kernel, so that a row's bits do not depend on the rows beside it: per K_STEP features one
// chain of fma over ascending k from 0, `part`; then total = total + part over ascending parts from 0; then + bias.
//
// What follows is shared by gemm.wgsl and gemv.wgsl.

struct Params {
  rows: u32,
  in_features: u32,
  out_features: u32,
  first_out: u32,
  out_stride: u32,
  has_bias: u32,
  accumulate: u32,
}

const K_STEP: u32 = 32u;
// A quad is four consecutive features.
const STEP_QUADS: u32 = K_STEP / 4u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> aux: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// K_STEPs of a row.
fn num_steps() -> u32 {
  return (params.in_features + K_STEP - 1u) / K_STEP;
}

// Four features of a row of x, zeros past the end of the row.
fn load_x(row: u32, quad: u32) -> vec4<f32> {
  let k = quad * 4u;
  let start = row * params.in_features + k;
  if (k + 4u <= params.in_features) {
    return vec4<f32>(x[start], x[start + 1u], x[start + 2u], x[start + 3u]);
  }
  var values = vec4<f32>();
  if (k < params.in_features) {
    values.x = x[start];
  }
  if (k + 1u < params.in_features) {
    values.y = x[start + 1u];
  }
  if (k + 2u < params.in_features) {
    values.z = x[start + 2u];
  }
  return values;
}

fn store(row: u32, o: u32, total: f32) {
  var value = total;
  if (params.has_bias != 0u) {
    value = value + aux[o];
  }
  let index = row * params.out_stride + params.first_out + o;
  if (params.accumulate != 0u) {
    value = y[index] + value;
  }
  y[index] = value;
}
