//! Cases of the linear_float kernels.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
