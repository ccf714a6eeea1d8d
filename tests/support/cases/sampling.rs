//! Cases of the sampling kernels.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
