//! Cases of the norm kernels.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
