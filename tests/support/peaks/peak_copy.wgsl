// y[i] = x[i]
//
//   x  [vectors] vec4<u32>
//   y  [vectors] vec4<u32>
//
// grid: (groups, 1, 1), any number; they take the vectors in turns of 256.

struct Params {
  vectors: u32,
  groups: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn peak_copy(@builtin(global_invocation_id) id: vec3<u32>) {
  for (var i = id.x; i < params.vectors; i += 256u * params.groups) {
    y[i] = x[i];
  }
}
