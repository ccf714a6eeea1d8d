//! The quantizer: its mathematics by properties and against slow, obvious programs in float64; its recipes over whole models.

mod activation;
mod bit_width;
mod flatten;
mod gptq;
mod grid;
mod oracle;
mod recipes;
mod refit;
mod smooth;
