//! Cases of the attention kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_FEW_ULP;
use half::f16;
use plateau_shaders::attention::{kv_append_f16, kv_append_f32, rope};
use plateau_shaders::{PAGE_SIZE, div_ceil};

pub fn cases() -> Vec<Case> {
    [rotations(), appends()].concat()
}

fn rotations() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, num_heads, head_dim, values) in [
        (1, 1, 2, 0),
        (3, 5, 20, 40),
        (65, 3, 64, 64),
        (2, 9, 128, 256),
    ] {
        let mut rng = Rng::new(u64::from(head_dim) * 1000 + u64::from(rows));
        let stride = num_heads * head_dim + values;
        let params = rope::Params {
            rows,
            num_heads,
            head_dim,
            stride,
        };
        let positions = 70;
        let row_info: Vec<[u32; 2]> = (0..rows)
            .map(|row| [row % 3, rng.below(positions)])
            .collect();
        let rope_table: Vec<[f32; 2]> = (0..positions * head_dim / 2)
            .map(|i| {
                let (position, pair) =
                    (f64::from(i / (head_dim / 2)), f64::from(i % (head_dim / 2)));
                let angle = position * 10000f64.powf(-2.0 * pair / f64::from(head_dim));
                [angle.cos() as f32, angle.sin() as f32]
            })
            .collect();
        let name = format!("rows={rows} heads={num_heads} head_dim={head_dim}");
        cases.push(
            Case::new(&rope::KERNEL, name, params, rope::grid(&params))
                .input(&row_info)
                .input(&rope_table)
                .output(
                    &rng.outliers(rows as usize, stride as usize, 2.0),
                    Check::Close(FLOAT_FEW_ULP),
                ),
        );
    }
    cases
}

/// Floats around every decision of the rounding to halves, then random bits of all exponents, then ordinary values.
fn awkward_floats(rng: &mut Rng, len: usize) -> Vec<f32> {
    let edges = [
        0x0000_0000, // zero
        0x0000_0001, // smallest subnormal float
        0x3300_0000, // 2^-25: ties to zero
        0x3300_0001, // just above: smallest half
        0x3380_0000, // 2^-24, smallest half
        0x33c0_0000, // 1.5 * 2^-24: a tie between two subnormal halves
        0x387f_dfff, // just below the tie to the smallest normal half
        0x387f_e000, // that tie
        0x387f_ffff, // just below 2^-14
        0x3880_0000, // 2^-14
        0x3f80_1000, // 1 + 2^-11: ties to even, down
        0x3f80_3000, // 1 + 3 * 2^-11: ties to even, up
        0x3f80_1001, // just above a tie
        0x3fff_f000, // a tie that carries into the exponent
        0x477f_e000, // 65504, largest half
        0x477f_efff, // just below the overflow
        0x477f_f000, // 65520: ties to infinity
        0x7f7f_ffff, // largest float
        0x7f80_0000, // infinity
        0x7fc0_0000, // quiet NaN
    ];
    let mut values = Vec::with_capacity(len);
    for &bits in edges.iter().cycle().take(len / 2) {
        let sign = (rng.next_u32() & 1) << 31;
        values.push(f32::from_bits(bits | sign));
    }
    while values.len() < len * 3 / 4 {
        let value = f32::from_bits(rng.next_u32());
        values.push(if value.is_nan() { 0.5 } else { value });
    }
    while values.len() < len {
        values.push(rng.unit() * 8.0);
    }
    values
}

fn appends() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, kv_heads, head_dim, extra) in [
        (1, 1, 2, 0),
        (5, 2, 20, 40),
        (66, 3, 64, 192),
        (3, 5, 80, 0),
    ] {
        let mut rng = Rng::new(u64::from(head_dim) * 1000 + u64::from(rows));
        // Sequence 0 has one row late in its second page; the others are a chunk of sequence 1 that crosses a page.
        let row_info: Vec<[u32; 2]> = (0..rows)
            .map(|row| if row == 0 { [0, 127] } else { [1, 59 + row] })
            .collect();
        let pages_per_sequence = div_ceil(60 + rows, PAGE_SIZE).max(2);
        let pages = 2 * pages_per_sequence;
        // Later pages first.
        let block_table: Vec<u32> = (0..pages).rev().collect();
        let k_offset = extra;
        let v_offset = k_offset + kv_heads * head_dim;
        let stride = v_offset + kv_heads * head_dim + 3;
        let params = kv_append_f32::Params {
            rows,
            kv_heads,
            head_dim,
            stride,
            k_offset,
            v_offset,
            table_stride: pages_per_sequence,
        };
        let qkv = awkward_floats(&mut rng, (rows * stride) as usize);
        let elements = (pages * kv_heads * PAGE_SIZE * head_dim) as usize;
        let name = format!("rows={rows} kv_heads={kv_heads} head_dim={head_dim}");
        cases.push(
            Case::new(
                &kv_append_f32::KERNEL,
                name.clone(),
                params,
                kv_append_f32::grid(&params),
            )
            .input(&row_info)
            .input(&block_table)
            .input(&qkv)
            .output(&vec![1f32; elements], Check::Exact)
            .output(&vec![2f32; elements], Check::Exact),
        );
        cases.push(
            Case::new(
                &kv_append_f16::KERNEL,
                name,
                params,
                kv_append_f16::grid(&params),
            )
            .input(&row_info)
            .input(&block_table)
            .input(&qkv)
            .output(&vec![f16::ONE; elements], Check::Exact)
            .output(&vec![f16::NEG_ONE; elements], Check::Exact),
        );
    }
    cases
}
