// Attention's output y as the flat integers of the linear that follows, y itself not stored: x_q = flatten_quantize(y).
//
//   map  [flat_features + heads + 1]       u32: the map of flat_part.wgsl, then `runs`: heads + 1 word indices in a row of x_q
//   x_q  [rows, padded(flat_features) / 4] u32, four i8 each
//
// A word has one writing workgroup: that of head h writes the head_dim / 4 words of its channels, and the words runs[h] .. runs[h + 1],
// all of whose sources are its channels. The run of the last head goes to the end of the row, padding included. map_with_runs in
// output_flat.rs makes the runs, of maps that allow it. head_dim is a multiple of 4.
//
// A kernel binds map and x_q, and defines `attended`: feature d of y of the workgroup's head, for row r of its rows.

struct Params {
  // Rows of a decode, tiles of a prefill.
  count: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  stride: u32,
  table_stride: u32,
  window: u32,
  scale: f32,
  flat_features: u32,
  q_max: u32,
  inv_scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

fn runs(head: u32) -> u32 {
  return map[params.flat_features + head];
}

// How many words of a row the head writes.
fn outputs_of(head: u32) -> u32 {
  return params.head_dim / 4u + runs(head + 1u) - runs(head);
}

// The integer of a flat channel of the head.
fn integer_of(r: u32, head: u32, entry: u32) -> i32 {
  // One without a part has no source in the head.
  let d = min((entry & SOURCE_MASK) - head * params.head_dim, params.head_dim - 1u);
  return flat_part(entry, attended(r, d));
}

// Word i of those, and its flat channels.
struct Output {
  word: u32,
  entries: vec4<u32>,
}

fn ahead(head: u32, i: u32) -> Output {
  let bulk_words = params.head_dim / 4u;
  let word = select(runs(head) + i - bulk_words, head * bulk_words + i, i < bulk_words);
  return Output(word, flat_entries(word, params.heads * params.head_dim));
}

// Stores it: `row` is row r of the workgroup's rows.
fn store_ahead(row: u32, r: u32, head: u32, own: Output) {
  var q = vec4<i32>();
  for (var lane = 0u; lane < 4u; lane += 1u) {
    q[lane] = integer_of(r, head, own.entries[lane]);
  }
  x_q[row * flat_words() + own.word] = pack4xI8(q);
}

fn store(row: u32, r: u32, head: u32, i: u32) {
  store_ahead(row, r, head, ahead(head, i));
}
