// Attention's output as it is: y [rows, heads * head_dim] f32.
//
// A kernel binds y, and defines `attended`: feature d of the output of the workgroup's head, for row r of its rows.

// How many values of a row the head writes.
fn outputs_of(head: u32) -> u32 {
  return params.head_dim;
}

// Value i of those.
struct Output {
  i: u32,
}

fn ahead(head: u32, i: u32) -> Output {
  return Output(i);
}

// Stores it: `row` is row r of the workgroup's rows.
fn store_ahead(row: u32, r: u32, head: u32, own: Output) {
  y[(row * params.heads + head) * params.head_dim + own.i] = attended(r, own.i);
}

fn store(row: u32, r: u32, head: u32, i: u32) {
  store_ahead(row, r, head, ahead(head, i));
}
