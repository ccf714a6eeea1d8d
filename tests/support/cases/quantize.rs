//! Cases of the quantize kernels.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
