// logits[t, i] = logits[t, i] * inv_penalty where it is positive, * penalty elsewhere, once for each token i of the row's history
//
//   row_info  [rows]              vec2<u32> (sequence, position)
//   history   [sequences, window] u32, 0xffffffff where there is no token yet
//   logits    [rows, vocab]       f32, in place
//
// grid: (ceil(window / 64), rows, 1), one invocation per place of the history: the first place of a token does its work.

const WORKGROUP: u32 = 64u;

struct Params {
  rows: u32,
  vocab: u32,
  window: u32,
  penalty: f32,
  inv_penalty: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_info: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> history: array<u32>;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn repeat_penalty(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.window || id.y >= params.rows) {
    return;
  }
  let first = row_info[id.y].x * params.window;
  let token = history[first + id.x];
  if (token >= params.vocab) {
    return;
  }
  for (var i = 0u; i < id.x; i += 1u) {
    if (history[first + i] == token) {
      return;
    }
  }
  let logit = logits[id.y * params.vocab + token];
  logits[id.y * params.vocab + token] = logit * select(params.penalty, params.inv_penalty, logit > 0.0);
}
