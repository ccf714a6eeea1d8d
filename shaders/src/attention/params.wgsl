// The parameters of attention that is not written as integers.

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
}

@group(0) @binding(0) var<uniform> params: Params;
