//! Comparison of words with the message that a person wants when it fails.

use crate::case::{Check, FlatRow};
use crate::tolerance::Tolerance;
use half::f16;
use plateau_shaders::pack;

/// `Err` says the first and the worst mismatch. `found` and `expected` have the same length.
pub fn compare(found: &[u32], expected: &[u32], check: &Check) -> Result<(), String> {
    match check {
        Check::Exact => exact(found, expected),
        Check::Close(tolerance) => close(&floats(found), &floats(expected), *tolerance),
        Check::CloseHalves(tolerance) => close(&halves(found), &halves(expected), *tolerance),
        Check::OneStep => one_step(found, expected),
        Check::FlatWithinStep(row) => flat_within_step(found, expected, row),
    }
}

/// How far `found` is from `expected`, where [`compare`] lets it be away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Values that were compared.
    pub values: u64,
    /// Of floats: the mean squared error over the mean square.
    pub nmse: f64,
    /// Of floats: the largest error over what the tolerance allows.
    pub of_allowed: f64,
    /// Integers that are a step off.
    pub off_by_one: u64,
}

impl Deviation {
    /// Takes in another one: counts are added, of errors the larger is kept.
    pub fn add(&mut self, other: &Self) {
        self.values += other.values;
        self.nmse = self.nmse.max(other.nmse);
        self.of_allowed = self.of_allowed.max(other.of_allowed);
        self.off_by_one += other.off_by_one;
    }
}

/// Of outputs that [`compare`] passed.
pub fn deviation(found: &[u32], expected: &[u32], check: &Check) -> Deviation {
    let of_floats = |found: &[f64], expected: &[f64], tolerance: Tolerance| {
        let is_finite = |&(f, e): &(&f64, &f64)| f.is_finite() && e.is_finite();
        let pairs = || found.iter().zip(expected).filter(is_finite);
        let squares: f64 = pairs().map(|(_, e)| e * e).sum();
        let errors: f64 = pairs().map(|(f, e)| (f - e).powi(2)).sum();
        let scale = (squares / pairs().count().max(1) as f64).sqrt();
        let share = |(f, e): (&f64, &f64)| (f - e).abs() / tolerance.allowed(*e, scale);
        Deviation {
            values: expected.len() as u64,
            nmse: if errors > 0.0 { errors / squares } else { 0.0 },
            of_allowed: pairs().map(share).fold(0.0, f64::max),
            off_by_one: 0,
        }
    };
    let of_integers = |values: usize, off: usize| Deviation {
        values: values as u64,
        off_by_one: off as u64,
        ..Deviation::default()
    };
    let differing_bytes = || {
        let words = found.iter().zip(expected);
        let bytes = words.map(|(f, e)| (f ^ e).to_le_bytes());
        bytes.flatten().filter(|&byte| byte != 0).count()
    };
    match check {
        Check::Exact => of_integers(expected.len(), 0),
        Check::Close(tolerance) => of_floats(&floats(found), &floats(expected), *tolerance),
        Check::CloseHalves(tolerance) => of_floats(&halves(found), &halves(expected), *tolerance),
        Check::OneStep | Check::FlatWithinStep(_) => {
            of_integers(4 * expected.len(), differing_bytes())
        }
    }
}

/// The values of the channels of rows of flat integers, or the first flat channel that is not a part of its channel's value.
fn flat_values(words: &[u32], row: &FlatRow) -> Result<Vec<i32>, String> {
    let features = row.features as usize;
    let q_max = row.q_max as i32;
    let part_of = |value: i32, part: u32| {
        value.signum() * (value.abs() - part as i32 * q_max).clamp(0, q_max)
    };
    let row_words = pack::i8_row_words(row.map.len());
    let mut all = Vec::new();
    for (t, words) in words.chunks_exact(row_words).enumerate() {
        let mut flat = vec![0; 4 * row_words];
        pack::unpack_i8(words, &mut flat);
        let mut values: Vec<i32> = flat[..features].iter().map(|&q| q.into()).collect();
        let extras = (features..).zip(&row.map[features..]);
        let extras = extras.map(|(at, entry)| (at, (entry & 0x00ff_ffff) as usize, entry >> 24));
        let mut last = (usize::MAX, 0);
        for (at, source, part) in extras.clone() {
            // A repeat, and padding, which has no channel, count once and not at all.
            if part > 0 && part < 255 && last != (source, part) {
                values[source] += i32::from(flat[at]);
            }
            last = (source, part);
        }
        let bulk = (0..features).map(|source| (source, source, 0));
        let wrong = bulk
            .chain(extras)
            .find(|&(at, source, part)| i32::from(flat[at]) != part_of(values[source], part));
        if let Some((at, source, part)) = wrong {
            return Err(format!(
                "row {t}, flat channel {at}: {} is not part {part} of channel {source}, {}",
                flat[at], values[source]
            ));
        }
        if let Some(at) = (row.map.len()..flat.len()).find(|&at| flat[at] != 0) {
            return Err(format!("row {t}: {} in the padding at {at}", flat[at]));
        }
        all.extend(values);
    }
    Ok(all)
}

fn flat_within_step(found: &[u32], expected: &[u32], row: &FlatRow) -> Result<(), String> {
    let (found, expected) = (flat_values(found, row)?, flat_values(expected, row)?);
    let far = |&i: &usize| (found[i] - expected[i]).abs() > 1;
    match (0..expected.len()).find(far) {
        None => Ok(()),
        Some(i) => Err(format!(
            "{} of {} values more than a step off; first at {i}: found {}, expected {}",
            (0..expected.len()).filter(far).count(),
            expected.len(),
            found[i],
            expected[i]
        )),
    }
}

fn floats(words: &[u32]) -> Vec<f64> {
    words
        .iter()
        .map(|&word| f64::from(f32::from_bits(word)))
        .collect()
}

fn halves(words: &[u32]) -> Vec<f64> {
    words
        .iter()
        .flat_map(|&word| [word as u16, (word >> 16) as u16])
        .map(|bits| f16::from_bits(bits).to_f64())
        .collect()
}

fn exact(found: &[u32], expected: &[u32]) -> Result<(), String> {
    let wrong: Vec<usize> = (0..expected.len())
        .filter(|&i| found[i] != expected[i])
        .collect();
    match wrong.first() {
        None => Ok(()),
        Some(&i) => Err(format!(
            "{} of {} words differ; first at {i}: found {:#010x} ({}), expected {:#010x} ({})",
            wrong.len(),
            expected.len(),
            found[i],
            found[i] as i32,
            expected[i],
            expected[i] as i32,
        )),
    }
}

fn one_step(found: &[u32], expected: &[u32]) -> Result<(), String> {
    let integers = |words: &[u32]| -> Vec<i8> {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.map(|byte| byte as i8).collect()
    };
    let (found, expected) = (integers(found), integers(expected));
    let far = |i: &usize| found[*i].abs_diff(expected[*i]) > 1;
    let wrong: Vec<usize> = (0..expected.len()).filter(far).collect();
    match wrong.first() {
        None => Ok(()),
        Some(&i) => Err(format!(
            "{} of {} integers are more than a step off; first at {i}: found {}, expected {}",
            wrong.len(),
            expected.len(),
            found[i],
            expected[i],
        )),
    }
}

/// Largest error over its allowance, or a message. A value that is not finite must be met exactly.
pub fn close(found: &[f64], expected: &[f64], tolerance: Tolerance) -> Result<(), String> {
    let finite = expected.iter().filter(|v| v.is_finite());
    let scale = (finite.clone().map(|v| v * v).sum::<f64>() / finite.count().max(1) as f64).sqrt();
    let excess = |i: usize| {
        if !expected[i].is_finite() || !found[i].is_finite() {
            let same = found[i] == expected[i] || (found[i].is_nan() && expected[i].is_nan());
            return if same { 0.0 } else { f64::INFINITY };
        }
        (found[i] - expected[i]).abs() / tolerance.allowed(expected[i], scale)
    };
    let errors: Vec<f64> = (0..expected.len()).map(excess).collect();
    let Some(first) = errors.iter().position(|&e| e > 1.0) else {
        return Ok(());
    };
    let worst = (0..errors.len())
        .max_by(|&a, &b| errors[a].total_cmp(&errors[b]))
        .expect("a mismatch was found");
    let count = errors.iter().filter(|&&e| e > 1.0).count();
    Err(format!(
        "{count} of {} values beyond '{}'; first at {first}: found {}, expected {}; worst at {worst}: found {}, expected {} ({:.3e} times the allowance)",
        errors.len(),
        tolerance.name,
        found[first],
        expected[first],
        found[worst],
        expected[worst],
        errors[worst],
    ))
}
