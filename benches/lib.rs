//! Plateau.
