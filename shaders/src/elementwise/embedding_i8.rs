//! A row of a table of i8 with a scale per row for each token. Shapes and formula: embedding.wgsl.

pub use super::embedding::{Params, grid};
use crate::kernel::{Access, Call, Kernel};

pub const KERNEL: Kernel = Kernel {
    name: "embedding_i8",
    source: &[
        include_str!("embedding.wgsl"),
        include_str!("embedding_i8.wgsl"),
    ],
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<Params>(),
    subgroups: false,
    run,
};

fn run(call: &mut Call<'_>) {
    reference(
        &call.params(),
        call.read(1),
        call.read(2),
        call.read(3),
        call.write(4),
    );
}

/// The definition of `embedding_i8`; see the headers of embedding.wgsl and embedding_i8.wgsl for shapes.
pub fn reference(params: &Params, tokens: &[u32], table: &[i8], scales: &[f32], y: &mut [f32]) {
    super::embedding::lookup(params, tokens, y, |row, index| {
        scales[row] * f32::from(table[index])
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_table_writes_only_its_own_tokens() {
        let params = Params {
            rows: 4,
            hidden: 2,
            vocab: 5,
            first_row: 1,
            num_rows: 2,
        };
        let mut table = vec![0i8; 2 * 32];
        table[..2].copy_from_slice(&[3, -4]);
        table[32..34].copy_from_slice(&[127, -127]);
        let mut y = [9.0; 8];
        reference(&params, &[2, 1, 4, 5], &table, &[0.5, 2.0], &mut y);
        assert_eq!(y, [254.0, -254.0, 1.5, -2.0, 9.0, 9.0, 0.0, 0.0]);
    }
}
