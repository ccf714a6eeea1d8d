//! Cases of the linear_int kernels.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
