//! Faults that are planted, to see that the comparison can fail.

use super::Cuda;
use super::parity::judge;
use crate::case::{Case, Check};
use crate::run::{not_supported, run};
use plateau::exec::Executor;
use plateau_shaders::linear::integer;
use plateau_shaders::{Access, pack};
use std::collections::BTreeSet;

/// What is made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One nibble of a weight.
    Nibble,
    /// The inputs' second step of 32 features is what memory held of the first: a barrier that is missing.
    Stale,
    /// The last feature that counts is left out: a loop that ends one too early.
    Tail,
    /// The last word of an output is not written: a grid that ends one too early.
    Unwritten,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Nibble, Self::Stale, Self::Tail, Self::Unwritten];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Nibble => "wrong nibble",
            Self::Stale => "stale step",
            Self::Tail => "short tail",
            Self::Unwritten => "unwritten word",
        }
    }
}

/// `case` with the fault in its inputs, where it can have it: `None` also where the fault would change no output.
///
/// [`Fault::Unwritten`] is none of the inputs: [`unwritten`].
pub fn plant(case: &Case, fault: Fault) -> Option<Case> {
    let is_integer_linear = case.kernel.bindings == integer::BINDINGS
        && case.params.len() == size_of::<integer::Params>();
    if !is_integer_linear {
        return None;
    }
    let params: integer::Params = bytemuck::pod_read_unaligned(&case.params);
    let row_words = params.in_words as usize;
    const STEP_WORDS: usize = 8;
    let mut faulty = case.clone();
    match fault {
        Fault::Nibble => {
            // Where the first row's input is not zero, so that it shows. An INT8 word has a feature for each byte, an INT4 word for each
            // nibble of two words.
            let at = case.buffers[0][..row_words]
                .iter()
                .position(|&word| word & 0xff != 0)?;
            let is_int8 = case.buffers[2].len() == params.out_features as usize * row_words;
            let (word, shift) = match is_int8 {
                true => (at, 0),
                false => (at / 2, 4 * (at % 2)),
            };
            faulty.buffers[2][word] ^= 1 << shift;
        }
        Fault::Stale => {
            if row_words < 2 * STEP_WORDS {
                return None;
            }
            faulty.buffers[0].copy_within(0..STEP_WORDS, STEP_WORDS);
            if faulty.buffers[0] == case.buffers[0] {
                return None;
            }
        }
        Fault::Tail => {
            let mut row = vec![0i8; 4 * row_words];
            pack::unpack_i8(&case.buffers[0][..row_words], &mut row);
            let last = row.iter().rposition(|&q| q != 0)?;
            row[last] = 0;
            faulty.buffers[0][..row_words].copy_from_slice(&pack::pack_i8(&row));
        }
        Fault::Unwritten => return None,
    }
    Some(faulty)
}

/// Puts what was there before in the place of the last word that `outputs` of `case` changed; whether there is one.
pub fn unwritten(case: &Case, outputs: &mut [Vec<u32>]) -> bool {
    for ((binding, _), words) in case.outputs.iter().zip(outputs).rev() {
        let before = &case.buffers[binding - 1];
        debug_assert_eq!(case.kernel.bindings[binding - 1], Access::ReadWrite);
        if let Some(last) = (0..words.len()).rev().find(|&i| words[i] != before[i]) {
            words[last] = before[last];
            return true;
        }
    }
    false
}

/// What came of the planted faults.
#[derive(Clone, Debug, Default)]
pub struct Planted {
    pub noticed: usize,
    /// Kernel, case and fault of those that passed all the same.
    pub missed: Vec<String>,
}

/// Plants every fault in the first case of each kernel that can have it, in what the device is given, and compares with CUDA as always.
pub async fn plant_all(
    device: &mut Executor,
    cuda: &Cuda,
    cases: &[Case],
) -> Result<Planted, String> {
    let mut planted = Planted::default();
    for fault in Fault::ALL {
        let mut done = BTreeSet::new();
        for case in cases {
            let is_exact = matches!(case.outputs[0].1, Check::Exact);
            if done.contains(case.kernel.name) || not_supported(device, case).is_some() {
                continue;
            }
            let found = match fault {
                Fault::Unwritten => {
                    let mut found = run(device, case).await?;
                    unwritten(case, &mut found).then_some(found)
                }
                // A float may hide what an accumulator shows.
                Fault::Nibble | Fault::Stale | Fault::Tail if !is_exact => None,
                Fault::Nibble | Fault::Stale | Fault::Tail => match plant(case, fault) {
                    Some(faulty) => Some(run(device, &faulty).await?),
                    None => None,
                },
            };
            let Some(found) = found else { continue };
            done.insert(case.kernel.name);
            match judge(case, &found, &cuda.run(case)?) {
                Err(_) => planted.noticed += 1,
                Ok(_) => planted.missed.push(format!(
                    "{} [{}]: {}",
                    case.kernel.name,
                    case.name,
                    fault.name()
                )),
            }
        }
    }
    Ok(planted)
}
