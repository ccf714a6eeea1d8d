//! The quantizer's mathematics, by its properties and against slow, obvious programs in float64.

mod bit_width;
mod flatten;
mod gptq;
mod grid;
mod oracle;
mod smooth;
