// float_linear.wgsl for many rows: a workgroup computes a tile of TILE rows by TILE outputs, an invocation 4 by 4 of it.
// What follows is shared by gemm_f32 and gemm_f16.
//
// grid: (ceil(out_features / 64), ceil(rows / 64), 1), workgroups of 256.

const TILE: u32 = 64u;
const TILE_QUADS: u32 = TILE / 4u;

// Both tiles have four rows (or outputs) at one feature in an element: element k * TILE_QUADS + swizzle(k / 4, quad of rows).
var<workgroup> x_tile: array<vec4<f32>, K_STEP * TILE_QUADS>;
var<workgroup> w_tile: array<vec4<f32>, K_STEP * TILE_QUADS>;

// Eight invocations that store eight quads of features of the same rows meet eight different banks.
fn swizzle(k_quad: u32, row_quad: u32) -> u32 {
  return row_quad ^ k_quad;
}

fn load_x_or_zeros(row: u32, quad: u32) -> vec4<f32> {
  if (row < params.rows) {
    return load_x(row, quad);
  }
  return vec4<f32>();
}

fn load_w_or_zeros(o: u32, quad: u32) -> vec4<f32> {
  if (o < params.out_features) {
    return load_w(o, quad);
  }
  return vec4<f32>();
}

// Stages one K_STEP of both tiles: the first half of the workgroup that of x, the second that of w, 4 by 4 each.
fn stage(first_row: u32, first_o: u32, step: u32, lane: u32) {
  let block = lane % (STEP_QUADS * TILE_QUADS);
  let k_quad = block % STEP_QUADS;
  let row_quad = block / STEP_QUADS;
  let quad = step * STEP_QUADS + k_quad;
  let start = k_quad * 4u * TILE_QUADS + swizzle(k_quad, row_quad);
  if (lane < STEP_QUADS * TILE_QUADS) {
    let row = first_row + row_quad * 4u;
    let a = load_x_or_zeros(row, quad);
    let b = load_x_or_zeros(row + 1u, quad);
    let c = load_x_or_zeros(row + 2u, quad);
    let d = load_x_or_zeros(row + 3u, quad);
    x_tile[start] = vec4<f32>(a.x, b.x, c.x, d.x);
    x_tile[start + TILE_QUADS] = vec4<f32>(a.y, b.y, c.y, d.y);
    x_tile[start + 2u * TILE_QUADS] = vec4<f32>(a.z, b.z, c.z, d.z);
    x_tile[start + 3u * TILE_QUADS] = vec4<f32>(a.w, b.w, c.w, d.w);
  } else {
    let o = first_o + row_quad * 4u;
    let a = load_w_or_zeros(o, quad);
    let b = load_w_or_zeros(o + 1u, quad);
    let c = load_w_or_zeros(o + 2u, quad);
    let d = load_w_or_zeros(o + 3u, quad);
    w_tile[start] = vec4<f32>(a.x, b.x, c.x, d.x);
    w_tile[start + TILE_QUADS] = vec4<f32>(a.y, b.y, c.y, d.y);
    w_tile[start + 2u * TILE_QUADS] = vec4<f32>(a.z, b.z, c.z, d.z);
    w_tile[start + 3u * TILE_QUADS] = vec4<f32>(a.w, b.w, c.w, d.w);
  }
}

fn store_row(row: u32, o: u32, total: vec4<f32>) {
  if (row >= params.rows) {
    return;
  }
  for (var i = 0u; i < 4u; i += 1u) {
    if (o + i < params.out_features) {
      store(row, o + i, total[i]);
    }
  }
}

// Every invocation of the workgroup calls it.
fn run(workgroup: vec3<u32>, lane: u32) {
  let first_row = workgroup.y * TILE;
  let first_o = workgroup.x * TILE;
  let row_quad = lane / TILE_QUADS;
  let o_quad = lane % TILE_QUADS;
  var total_0 = vec4<f32>();
  var total_1 = vec4<f32>();
  var total_2 = vec4<f32>();
  var total_3 = vec4<f32>();
  let steps = num_steps();
  for (var step = 0u; step < steps; step += 1u) {
    workgroupBarrier();   // the tiles of the last step were read
    stage(first_row, first_o, step, lane);
    workgroupBarrier();
    var part_0 = vec4<f32>();
    var part_1 = vec4<f32>();
    var part_2 = vec4<f32>();
    var part_3 = vec4<f32>();
    for (var k = 0u; k < K_STEP; k += 1u) {
      let rows = x_tile[k * TILE_QUADS + swizzle(k / 4u, row_quad)];
      let outputs = w_tile[k * TILE_QUADS + swizzle(k / 4u, o_quad)];
      part_0 = fma(vec4<f32>(rows.x), outputs, part_0);
      part_1 = fma(vec4<f32>(rows.y), outputs, part_1);
      part_2 = fma(vec4<f32>(rows.z), outputs, part_2);
      part_3 = fma(vec4<f32>(rows.w), outputs, part_3);
    }
    total_0 = total_0 + part_0;
    total_1 = total_1 + part_1;
    total_2 = total_2 + part_2;
    total_3 = total_3 + part_3;
  }
  let row = first_row + row_quad * 4u;
  let o = first_o + o_quad * 4u;
  store_row(row, o, total_0);
  store_row(row + 1u, o, total_1);
  store_row(row + 2u, o, total_2);
  store_row(row + 3u, o, total_3);
}
