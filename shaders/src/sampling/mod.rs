//! Logits to tokens, and what follows a token.

pub mod argmax;
pub mod argmax_parts;
pub mod repeat_penalty;
pub mod sample;

/// What follows a chosen token of a row, as advance.wgsl has it: the last step of every kernel that chooses.
fn advance(
    window: u32,
    row: usize,
    token: u32,
    tokens: &mut [u32],
    row_info: &mut [[u32; 2]],
    history: &mut [u32],
) {
    let [sequence, position] = &mut row_info[row];
    *position += 1;
    tokens[row] = token;
    history[(*sequence * window + *position % window) as usize] = token;
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_step_moves_everything_by_one() {
        let (mut tokens, mut row_info) = ([0; 2], [[1, 4], [0, 1]]);
        let mut history = [0; 6];
        for (row, token) in [11, 22].into_iter().enumerate() {
            super::advance(3, row, token, &mut tokens, &mut row_info, &mut history);
        }
        assert_eq!((tokens, row_info), ([11, 22], [[1, 5], [0, 2]]));
        assert_eq!(history, [0, 0, 22, 0, 0, 11]);
    }
}
