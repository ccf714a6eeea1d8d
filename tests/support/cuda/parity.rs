//! Cases and what came of them: the shader against the CUDA kernel.

use super::Cuda;
use super::matmul::Library;
use crate::case::{Case, Check};
use crate::compare::{Deviation, compare, deviation};
use crate::run;
use plateau::exec::Executor;
use std::collections::BTreeMap;

/// What llama.cpp's op tests allow at most, as a mean squared error over the mean square. Every tolerance of a case is tighter: one of
/// `r` allows `2 r^2`, 5e-9 for the largest, attention's. Checked beside it all the same, so that it is seen to hold.
pub const PEER_NMSE: f64 = 1e-7;

/// What came of a case.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    pub deviation: Deviation,
    /// Whether cuBLASLt was asked too.
    pub by_library: bool,
}

/// Runs `case` on `device` and through CUDA and compares every output: integers for equality, floats within the case's tolerance. The
/// accumulators of an INT8 linear also with cuBLASLt's, where there is the library.
pub async fn check(
    device: &mut Executor,
    cuda: &Cuda,
    library: Option<&Library<'_>>,
    case: &Case,
) -> Result<Agreed, String> {
    let expected = cuda.run(case)?;
    let found = run::run(device, case).await?;
    Ok(Agreed {
        deviation: judge(case, &found, &expected)?,
        by_library: match library {
            Some(library) => library.check(case, &found)?,
            None => false,
        },
    })
}

/// Compares the outputs of `case`.
pub(super) fn judge(
    case: &Case,
    found: &[Vec<u32>],
    expected: &[Vec<u32>],
) -> Result<Deviation, String> {
    let mut all = Deviation::default();
    for (i, (binding, check)) in case.outputs.iter().enumerate() {
        compare(&found[i], &expected[i], check)
            .map_err(|message| format!("binding {binding}: {message}"))?;
        let of_output = deviation(&found[i], &expected[i], check);
        if matches!(check, Check::Close(_) | Check::CloseHalves(_)) && of_output.nmse > PEER_NMSE {
            return Err(format!(
                "binding {binding}: normalized mean squared error {:.3e}, at most {PEER_NMSE:e} is allowed",
                of_output.nmse
            ));
        }
        all.add(&of_output);
    }
    Ok(all)
}

/// How many comparisons there were of each kernel, and the worst of them.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<&'static str, (usize, Deviation)>);

impl Tally {
    pub fn add(&mut self, kernel: &'static str, found: &Deviation) {
        let (count, worst) = self.0.entry(kernel).or_default();
        *count += 1;
        worst.add(found);
    }

    pub fn append(&mut self, other: &Self) {
        for (kernel, (count, found)) in &other.0 {
            let (sum, worst) = self.0.entry(kernel).or_default();
            *sum += count;
            worst.add(found);
        }
    }

    pub fn count(&self) -> usize {
        self.0.values().map(|(count, _)| count).sum()
    }
}
