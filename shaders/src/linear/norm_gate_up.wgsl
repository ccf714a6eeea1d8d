// The linear of norm_input.wgsl whose outputs are gate and up of a gated MLP: a subgroup has both outputs of four channels at a time. The
// workgroup then writes the flat integers of its 64 channels' products: their words, and the words runs[t] .. runs[t + 1] of its tile t, all
// of whose sources are its channels. The run of the last tile goes to the end of the row, padding included. map_with_runs in
// ../attention/output_flat.rs makes the runs, of maps that allow it.
// What follows is shared by norm_gate_up_i4 and norm_gate_up_i8.

struct Params {
  in_features: u32,
  in_words: u32,
  out_features: u32,
  w_scale_stride: u32,
  has_bias: u32,
  in_flat_features: u32,
  in_q_max: u32,
  in_inv_scale: f32,
  x_scale: f32,
  eps: f32,
  flat_features: u32,
  q_max: u32,
  inv_scale: f32,
}

const TILE: u32 = 64u;
const TILE_WORDS: u32 = 16u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read> map: array<u32>;
@group(0) @binding(7) var<storage, read_write> x_q: array<u32>;

// Of each channel; products are made of them after a barrier, so that no compiler contracts an operation with the next.
var<workgroup> gates: array<f32, TILE>;
var<workgroup> ups: array<f32, TILE>;

// First channel of the workgroup.
var<private> tile_first: u32;

// Four gates, then their ups.
fn output_index(first: u32, n: u32) -> u32 {
  return min(first + n % 4u, params.out_features / 2u - 1u) + select(0u, params.out_features / 2u, n >= 4u);
}

fn take(first: u32, n: u32, acc: i32) {
  let at = first + n % 4u - tile_first;
  if (at < TILE) {
    let value = scaled(output_index(first, n), acc);
    if (n < 4u) {
      gates[at] = value;
    } else {
      ups[at] = value;
    }
  }
}

// First extra word of a tile.
fn run_of(tile: u32) -> u32 {
  return map[params.flat_features + tile];
}

// The integer of a flat channel of the tile.
fn integer_of_tile(tile: u32, channel: u32) -> i32 {
  let entry = flat_entry(channel, params.out_features / 2u);
  // It has no source: the tile has no such channel.
  if (entry == ZERO_ENTRY) {
    return 0;
  }
  let at = (entry & SOURCE_MASK) - tile * TILE;
  return flat_part(entry, silu_mul_of(gates[at], ups[at]));
}

// Every invocation of the workgroup calls it.
fn run(tile: u32, lid: u32, place: Place) {
  tile_first = tile * TILE;
  let stride = 4u * place.num_subgroups;
  make_outputs(tile_first + 4u * place.subgroup, stride, (TILE + stride - 1u) / stride, place, lid);
  workgroupBarrier();
  let words = TILE_WORDS + run_of(tile + 1u) - run_of(tile);
  for (var i = lid; i < words; i += WORKGROUP) {
    let word = select(run_of(tile) + i - TILE_WORDS, tile * TILE_WORDS + i, i < TILE_WORDS);
    var q = vec4<i32>();
    for (var k = 0u; k < 4u; k += 1u) {
      q[k] = integer_of_tile(tile, 4u * word + k);
    }
    x_q[word] = pack4xI8(q);
  }
}
