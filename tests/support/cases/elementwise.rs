//! Cases of the elementwise kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use crate::tolerance::FLOAT_TRANSCENDENTAL;
use plateau_shaders::elementwise::silu_mul;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features) in [(1, 1), (1, 255), (3, 256), (2, 257), (65, 64)] {
        let mut rng = Rng::new(u64::from(features) * 1000 + u64::from(rows));
        let params = silu_mul::Params { rows, features };
        let x = rng.outliers(rows as usize, 2 * features as usize, 2.0);
        cases.push(
            Case::new(&silu_mul::KERNEL, format!("rows={rows} features={features}"), params, silu_mul::grid(&params))
                .input(&x)
                .output(&vec![0f32; (rows * features) as usize], Check::Close(FLOAT_TRANSCENDENTAL)),
        );
    }
    cases
}
