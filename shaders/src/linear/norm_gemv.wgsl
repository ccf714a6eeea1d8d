// The linear of norm_input.wgsl that writes floats: each GROUP invocations have two neighbouring outputs.
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
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// The workgroup's first output.
var<private> first_of_group: u32;

fn take(pair: u32, n: u32, value: f32) {
  let out = first_of_group + 2u * pair + n;
  if (out < params.out_features) {
    y[params.first_out + out] = value;
  }
}

// There is nothing.
fn load_ahead(lid: u32) {}

// Every invocation of the workgroup calls it.
fn run(group: u32, lid: u32, place: Place, subgroup_lanes: u32) {
  first_of_group = group * (2u * WORKGROUP / GROUP);
  let out = first_of_group + 2u * place.pair;
  let last = params.out_features - 1u;
  make_outputs(min(out, last), min(out + 1u, last), place, subgroup_lanes, lid);
}
