//! quantize.
