// What follows a chosen token of row t: tokens[t] = token, the input of the next step · row_info[t].position += 1 ·
// history[sequence, position % window] = token with the new position. The kernel declares these and params.window.
//
//   tokens    [rows]              u32
//   row_info  [rows]              vec2<u32> (sequence, position), a sequence once
//   history   [sequences, window] u32

fn advance(row: u32, token: u32) {
  let place = row_info[row];
  let position = place.y + 1u;
  tokens[row] = token;
  row_info[row].y = position;
  history[place.x * params.window + position % params.window] = token;
}
