//! Plateau.
fn main() {}
