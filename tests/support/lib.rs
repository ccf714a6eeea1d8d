//! What the tests, the benches and `plateau bench-ops` share: the table of kernel cases, seeded inputs, named tolerances,
//! comparison, timing, and a heap that counts.

pub mod case;
pub mod cases;
pub mod compare;
pub mod cuda;
pub mod device;
pub mod heap;
pub mod model;
pub mod peaks;
pub mod rng;
pub mod run;
pub mod timing;
pub mod tolerance;

pub use case::{Case, Check};
pub use rng::Rng;
