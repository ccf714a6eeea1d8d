// The linear of norm_input.wgsl whose outputs are gate and up of a gated MLP: each GROUP invocations, 4, have both outputs of a channel. The
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

// Of the tile's channel `pair`.
fn take(pair: u32, n: u32, value: f32) {
  if (n == 0u) {
    gates[pair] = value;
  } else {
    ups[pair] = value;
  }
}

// First extra word of a tile.
fn run_of(tile: u32) -> u32 {
  return map[params.flat_features + tile];
}

// Word i of those that the tile writes: its first ones, then those of its run.
fn word_of(tile: u32, i: u32) -> u32 {
  return select(run_of(tile) + i - TILE_WORDS, tile * TILE_WORDS + i, i < TILE_WORDS);
}

// The first word of the invocation, and its flat channels: past the words of the tile what is not used.
var<private> own_word: u32;
var<private> own_entries: vec4<u32>;

fn load_ahead(lid: u32) {
  own_word = word_of(tile_first / TILE, lid);
  own_entries = flat_entries(own_word, params.out_features / 2u);
}

// The integer of a flat channel of the tile.
fn integer_of_tile(entry: u32) -> i32 {
  // One without a part has no source in the tile.
  let at = min((entry & SOURCE_MASK) - tile_first, TILE - 1u);
  return flat_part(entry, silu_mul_of(gates[at], ups[at]));
}

fn store_word(word: u32, entries: vec4<u32>) {
  x_q[word] = pack4xI8(vec4<i32>(
    integer_of_tile(entries.x), integer_of_tile(entries.y), integer_of_tile(entries.z), integer_of_tile(entries.w),
  ));
}

// Every invocation of the workgroup calls it.
fn run(tile: u32, lid: u32, place: Place, subgroup_lanes: u32) {
  tile_first = tile * TILE;
  let channel = tile_first + min(place.pair, TILE - 1u);
  make_outputs(channel, params.out_features / 2u + channel, place, subgroup_lanes, lid);
  workgroupBarrier();
  let words = TILE_WORDS + run_of(tile + 1u) - run_of(tile);
  if (lid < words) {
    store_word(own_word, own_entries);
  }
  for (var i = lid + WORKGROUP; i < words; i += WORKGROUP) {
    let word = word_of(tile, i);
    store_word(word, flat_entries(word, params.out_features / 2u));
  }
}
