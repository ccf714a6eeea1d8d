// The main loop of the integer GEMMs of few rows on INT8 cooperative matrices: 16 or 32 rows by 32 outputs a workgroup.
// The matrices are the stand-ins of gemm_coop16_int8.wgsl.
//
// Weights are read from memory once. The features are divided among the subgroups, of 32 invocations each, whose sums are added at the end.
// A subgroup stages what it multiplies for itself alone: x first, then weights of sixteen outputs in the same place, and again of
// sixteen. It waits for no other subgroup, and tiles so small leave room for many workgroups, which is what hides the time that
// loads take: the driver moves loads that are meant for later down to where they are used.

alias FragX = coop_mat16x16<f32, A>;
alias FragW = coop_mat16x16<f32, B>;
alias FragSum = coop_mat16x16<f32, C>;

// 1: 16 rows a workgroup; 2: 32.
override ROW_FRAGS: u32 = 2u;
// Subgroups of a workgroup.
override SUBGROUPS: u32 = 4u;
// Parts that a subgroup loads at once, 1 or 2.
override LOADED_PARTS: u32 = 1u;

override WORKGROUP: u32 = 32u * SUBGROUPS;
const FRAG: u32 = 16u;
const OUTS: u32 = 2u * FRAG;
// A part of 64 features: vec4s of sixteen, and pieces of 32 as weights are loaded.
const PART_VECS: u32 = 4u;
const PART_PIECES: u32 = 2u;
// vec4s in a row of a tile: one more, against bank conflicts. Of a piece the first half stands in the first half of the row.
const STRIDE: u32 = PART_VECS + 1u;
// vec4s of a matrix of sums, and of the tile of a subgroup.
const SUM_VECS: u32 = FRAG * FRAG / 4u;
override TILE_VECS: u32 = ROW_FRAGS * FRAG * STRIDE;

// The tiles; in the end the sums of each subgroup for sixteen outputs.
override ALL_VECS: u32 = SUBGROUPS * TILE_VECS;
var<workgroup> tiles: array<vec4<f32>, ALL_VECS>;

// The first row and output of a workgroup, an invocation of a subgroup, and the subgroup's tile.
struct Place {
  first_row: u32,
  first_out: u32,
  lane: u32,
  tile: u32,
}

// What an invocation loads of x for a part.
struct XPart {
  v_0: vec4<u32>,
  v_1: vec4<u32>,
  v_2: vec4<u32>,
  v_3: vec4<u32>,
}

// What it loads of the weights: of the first sixteen outputs and of the others.
struct WPart {
  s_0: StoredWeights,
  s_1: StoredWeights,
}

// Which of eight rows of x, and which of sixteen outputs, the invocation loads: those of eight invocations side by side are stored
// to different banks.
fn row_of(lane: u32) -> u32 {
  return lane / 8u + lane / 4u % 2u * 4u;
}

fn out_of(lane: u32) -> u32 {
  return lane / 16u * 8u + lane / 2u % 4u * 2u + lane / 8u % 2u;
}

fn load_x_part(place: Place, part: u32) -> XPart {
  let to = place.lane % PART_VECS;
  let vec = part * PART_VECS + 2u * (to % PART_PIECES) + to / PART_PIECES;
  let row = place.first_row + row_of(place.lane);
  var x = XPart();
  x.v_0 = load_any_x(row, vec);
  x.v_1 = load_any_x(row + 8u, vec);
  if (ROW_FRAGS > 1u) {
    x.v_2 = load_any_x(row + 16u, vec);
    x.v_3 = load_any_x(row + 24u, vec);
  }
  return x;
}

fn load_w_part(place: Place, part: u32) -> WPart {
  let piece = part * PART_PIECES + place.lane % PART_PIECES;
  let out = place.first_out + out_of(place.lane);
  return WPart(load_w(out, piece), load_w(out + FRAG, piece));
}

fn put_x(place: Place, x: XPart) {
  let to = place.tile + row_of(place.lane) * STRIDE + place.lane % PART_VECS;
  tiles[to] = bitcast<vec4<f32>>(x.v_0);
  tiles[to + 8u * STRIDE] = bitcast<vec4<f32>>(x.v_1);
  if (ROW_FRAGS > 1u) {
    tiles[to + 16u * STRIDE] = bitcast<vec4<f32>>(x.v_2);
    tiles[to + 24u * STRIDE] = bitcast<vec4<f32>>(x.v_3);
  }
}

// Weights past the end of a row are zeros, so x may be anything there.
fn put_w(place: Place, part: u32, stored: StoredWeights) {
  let to = place.tile + out_of(place.lane) * STRIDE + place.lane % PART_PIECES;
  let w = weights_or_zeros(stored, part * PART_PIECES + place.lane % PART_PIECES);
  tiles[to] = bitcast<vec4<f32>>(w.first);
  tiles[to + PART_PIECES] = bitcast<vec4<f32>>(w.second);
}

// Rows and outputs of a workgroup, the first of which are given. Every invocation of the workgroup calls it.
fn run(first_row: u32, first_out: u32, invocation: u32, subgroup: u32) {
  let parts = (params.in_words / 8u + PART_PIECES - 1u) / PART_PIECES;
  let step_parts = SUBGROUPS * LOADED_PARTS;
  let steps = (parts + step_parts - 1u) / step_parts;
  let tile = subgroup * TILE_VECS;
  let place = Place(first_row, first_out, invocation % 32u, tile);
  var sum00 = FragSum();
  var sum01 = FragSum();
  var sum10 = FragSum();
  var sum11 = FragSum();
  var x_0 = load_x_part(place, subgroup);
  var w_0 = load_w_part(place, subgroup);
  var x_1 = XPart();
  var w_1 = WPart();
  if (LOADED_PARTS > 1u) {
    x_1 = load_x_part(place, subgroup + SUBGROUPS);
    w_1 = load_w_part(place, subgroup + SUBGROUPS);
  }
  // Every subgroup has as many steps; parts past the end add nothing.
  for (var step = 0u; step < steps; step += 1u) {
    let part = subgroup + step * step_parts;
    {
      subgroupBarrier();   // the tile of the last part was read
      put_x(place, x_0);
      subgroupBarrier();
      let x00 = coopLoadT<FragX>(&tiles[tile], STRIDE);
      let x01 = coopLoadT<FragX>(&tiles[tile + 2u], STRIDE);
      var x10 = FragX();
      var x11 = FragX();
      if (ROW_FRAGS > 1u) {
        x10 = coopLoadT<FragX>(&tiles[tile + FRAG * STRIDE], STRIDE);
        x11 = coopLoadT<FragX>(&tiles[tile + FRAG * STRIDE + 2u], STRIDE);
      }
      subgroupBarrier();
      put_w(place, part, w_0.s_0);
      subgroupBarrier();
      let w00 = coopLoad<FragW>(&tiles[tile], STRIDE);
      let w01 = coopLoad<FragW>(&tiles[tile + 2u], STRIDE);
      sum00 = coopMultiplyAdd(x00, w00, sum00);
      sum00 = coopMultiplyAdd(x01, w01, sum00);
      if (ROW_FRAGS > 1u) {
        sum10 = coopMultiplyAdd(x10, w00, sum10);
        sum10 = coopMultiplyAdd(x11, w01, sum10);
      }
      subgroupBarrier();
      put_w(place, part, w_0.s_1);
      subgroupBarrier();
      x_0 = load_x_part(place, part + step_parts);
      w_0 = load_w_part(place, part + step_parts);
      let w10 = coopLoad<FragW>(&tiles[tile], STRIDE);
      let w11 = coopLoad<FragW>(&tiles[tile + 2u], STRIDE);
      sum01 = coopMultiplyAdd(x00, w10, sum01);
      sum01 = coopMultiplyAdd(x01, w11, sum01);
      if (ROW_FRAGS > 1u) {
        sum11 = coopMultiplyAdd(x10, w10, sum11);
        sum11 = coopMultiplyAdd(x11, w11, sum11);
      }
    }
    // The same of the second part, written out: drivers keep in memory what an index chooses.
    if (LOADED_PARTS > 1u) {
      subgroupBarrier();
      put_x(place, x_1);
      subgroupBarrier();
      let x00 = coopLoadT<FragX>(&tiles[tile], STRIDE);
      let x01 = coopLoadT<FragX>(&tiles[tile + 2u], STRIDE);
      var x10 = FragX();
      var x11 = FragX();
      if (ROW_FRAGS > 1u) {
        x10 = coopLoadT<FragX>(&tiles[tile + FRAG * STRIDE], STRIDE);
        x11 = coopLoadT<FragX>(&tiles[tile + FRAG * STRIDE + 2u], STRIDE);
      }
      subgroupBarrier();
      put_w(place, part + SUBGROUPS, w_1.s_0);
      subgroupBarrier();
      let w00 = coopLoad<FragW>(&tiles[tile], STRIDE);
      let w01 = coopLoad<FragW>(&tiles[tile + 2u], STRIDE);
      sum00 = coopMultiplyAdd(x00, w00, sum00);
      sum00 = coopMultiplyAdd(x01, w01, sum00);
      if (ROW_FRAGS > 1u) {
        sum10 = coopMultiplyAdd(x10, w00, sum10);
        sum10 = coopMultiplyAdd(x11, w01, sum10);
      }
      subgroupBarrier();
      put_w(place, part + SUBGROUPS, w_1.s_1);
      subgroupBarrier();
      x_1 = load_x_part(place, part + SUBGROUPS + step_parts);
      w_1 = load_w_part(place, part + SUBGROUPS + step_parts);
      let w10 = coopLoad<FragW>(&tiles[tile], STRIDE);
      let w11 = coopLoad<FragW>(&tiles[tile + 2u], STRIDE);
      sum01 = coopMultiplyAdd(x00, w10, sum01);
      sum01 = coopMultiplyAdd(x01, w11, sum01);
      if (ROW_FRAGS > 1u) {
        sum11 = coopMultiplyAdd(x10, w10, sum11);
        sum11 = coopMultiplyAdd(x11, w11, sum11);
      }
    }
  }
  let sums = subgroup * ROW_FRAGS * SUM_VECS;
  workgroupBarrier();
  coopStoreT(sum00, &tiles[sums], FRAG / 4u);
  if (ROW_FRAGS > 1u) {
    coopStoreT(sum10, &tiles[sums + SUM_VECS], FRAG / 4u);
  }
  workgroupBarrier();
  store_sixteen(first_row, first_out, invocation);
  workgroupBarrier();
  coopStoreT(sum01, &tiles[sums], FRAG / 4u);
  if (ROW_FRAGS > 1u) {
    coopStoreT(sum11, &tiles[sums + SUM_VECS], FRAG / 4u);
  }
  workgroupBarrier();
  store_sixteen(first_row, first_out + FRAG, invocation);
}

// Adds what the subgroups left of sixteen outputs, and stores it.
fn store_sixteen(first_row: u32, first_out: u32, invocation: u32) {
  for (var i = invocation; i < ROW_FRAGS * FRAG * FRAG; i += WORKGROUP) {
    let row = first_row + i / FRAG;
    let out = first_out + i % FRAG;
    var sum = 0;
    for (var subgroup = 0u; subgroup < SUBGROUPS; subgroup += 1u) {
      sum += bitcast<i32>(tiles[subgroup * ROW_FRAGS * SUM_VECS + i / 4u][i % 4u]);
    }
    if (row < params.rows && out < params.out_features) {
      store_accumulator(row, out, sum);
    }
  }
}
