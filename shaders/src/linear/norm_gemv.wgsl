// The linear of norm_input.wgsl that writes floats: a subgroup has eight neighbouring outputs at a time.
// What follows is shared by norm_gemv_i4 and norm_gemv_i8.

struct Params {
  in_features: u32,
  in_words: u32,
  out_features: u32,
  first_out: u32,
  w_scale_stride: u32,
  has_bias: u32,
  in_flat_features: u32,
  in_q_max: u32,
  in_inv_scale: f32,
  x_scale: f32,
  eps: f32,
  span: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// Where the outputs of the workgroup end.
var<private> end: u32;

fn output_index(first: u32, n: u32) -> u32 {
  return min(first + n, params.out_features - 1u);
}

fn take(first: u32, n: u32, acc: i32) {
  let out = first + n;
  if (out < end) {
    y[params.first_out + out] = scaled(out, acc);
  }
}

// Every invocation of the workgroup calls it.
fn run(group: u32, lid: u32, place: Place) {
  end = min((group + 1u) * params.span, params.out_features);
  let stride = EIGHT * place.num_subgroups;
  let first = group * params.span + EIGHT * place.subgroup;
  make_outputs(first, stride, (params.span + stride - 1u) / stride, place, lid);
}
