//! Cases and what came of them: the shader against the CUDA kernel.

use super::Cuda;
use super::matmul::Library;
use crate::case::{Case, Check};
use crate::compare::{Deviation, compare, deviation};
use crate::run;
use plateau::exec::Executor;
use std::collections::BTreeMap;

/// What llama.cpp's op tests allow at most of most operations, as a mean squared error over the mean square.
const PEER_NMSE: f64 = 1e-7;

/// The normalized mean squared error that a tolerance allows: what llama.cpp's tests allow, beside what every value is allowed for itself.
/// Operations in halves get the square of their tolerance, as the peer's get more: 5e-4 of attention.
fn most_nmse(check: &Check) -> f64 {
    match check {
        Check::Close(tolerance) | Check::CloseHalves(tolerance) => {
            PEER_NMSE.max(tolerance.relative * tolerance.relative)
        }
        Check::Exact | Check::OneStep | Check::FlatWithinStep(_) => 0.0,
    }
}

/// Compares one output, `found` of the device and `expected` of its peer.
pub(super) fn judge_output(
    found: &[u32],
    expected: &[u32],
    check: &Check,
) -> Result<Deviation, String> {
    compare(found, expected, check)?;
    let deviation = deviation(found, expected, check);
    if deviation.nmse > most_nmse(check) {
        return Err(format!(
            "normalized mean squared error {:.3e}, at most {:.1e} is allowed",
            deviation.nmse,
            most_nmse(check)
        ));
    }
    Ok(deviation)
}

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
        let of_output = judge_output(&found[i], &expected[i], check)
            .map_err(|message| format!("binding {binding}: {message}"))?;
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
