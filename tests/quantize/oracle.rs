//! The slow, obvious program: dense float64, one formula at a time, sums from left to right.

use plateau::checkpoint::FLATTEN_PADDING;
use plateau::quantize::flatten::FlatMap;
use plateau::quantize::gptq::Hessian;

/// `X Wᵀ` of `x` [rows, features] and `w` [out, features].
pub fn product(x: &[f64], w: &[f64], features: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(features)
        .flat_map(|x| w.chunks(features).map(move |w| dot(x, w)))
        .collect()
}

/// `XᵀX` of `x` [rows, features].
pub fn gram(x: &[f64], features: usize) -> Vec<f64> {
    let mut gram = vec![0.0; features * features];
    for row in x.chunks(features) {
        for i in 0..features {
            for j in 0..features {
                gram[i * features + j] += row[i] * row[j];
            }
        }
    }
    gram
}

/// The engine's matrix of a dense symmetric one, whose rows come in two bands.
pub fn hessian(gram: &[f64], features: usize) -> Hessian {
    let mut hessian = Hessian::new(features);
    let places: Vec<u32> = (0..gram.len() as u32).collect();
    let (top, bottom) = places.split_at(features / 2 * features);
    for (first, band) in [(0, top), (features / 2, bottom)] {
        hessian.add_upper_rows(first, features, band, |at| gram[at as usize]);
    }
    hessian
}

/// A row of X on a map's flat channels: part p of x is `sign(x) * clamp(|x| - p * T, 0, T)`.
pub fn flat_activations(map: &FlatMap, row: &[f32], threshold: f32) -> Vec<f64> {
    let part_of = |source: usize, part: u32| {
        let (x, t) = (f64::from(row[source]), f64::from(threshold));
        match part {
            0 => x.clamp(-t, t),
            part => (x.abs() - f64::from(part) * t).clamp(0.0, t) * x.signum(),
        }
    };
    let extra = |&word: &u32| match word {
        FLATTEN_PADDING => 0.0,
        word => part_of((word & 0xff_ffff) as usize, word >> 24),
    };
    let bulk = (0..row.len()).map(|source| part_of(source, 0));
    bulk.chain(map.words().iter().map(extra)).collect()
}

/// `deltaᵀ H delta`.
pub fn objective(delta: &[f64], h: &[f64]) -> f64 {
    let n = delta.len();
    (0..n * n)
        .map(|at| delta[at / n] * h[at] * delta[at % n])
        .sum()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The nearest of the integers from -q_max to q_max, ties to even.
pub fn round(value: f64, step: f64, q_max: f64) -> f64 {
    if step == 0.0 {
        return 0.0;
    }
    (value / step).round_ties_even().clamp(-q_max, q_max)
}

/// The inverse of a positive definite matrix, by Gauss-Jordan elimination.
fn inverse(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut left = matrix.to_vec();
    let mut right: Vec<f64> = (0..n * n)
        .map(|at| f64::from(u8::from(at / n == at % n)))
        .collect();
    for pivot in 0..n {
        let by = left[pivot * n + pivot];
        for column in 0..n {
            left[pivot * n + column] /= by;
            right[pivot * n + column] /= by;
        }
        for row in (0..n).filter(|&row| row != pivot) {
            let by = left[row * n + pivot];
            for column in 0..n {
                left[row * n + column] -= by * left[pivot * n + column];
                right[row * n + column] -= by * right[pivot * n + column];
            }
        }
    }
    right
}

/// GPTQ as its paper derives it from OBQ, eq. 2 and 3: round a feature, move all that are left to their optimum, leave the
/// feature out and invert the Hessian of the others anew. `h` is damped already, `steps` has a step for each feature.
pub fn gptq(w: &[f64], h: &[f64], order: &[usize], steps: &[f64], q_max: f64) -> Vec<f64> {
    let n = w.len();
    let mut moved = w.to_vec();
    let mut q = vec![0.0; n];
    for (done, &feature) in order.iter().enumerate() {
        let left = &order[done..];
        let of_left: Vec<f64> = left
            .iter()
            .flat_map(|&i| left.iter().map(move |&j| h[i * n + j]))
            .collect();
        let inverse = inverse(&of_left, left.len());
        q[feature] = round(moved[feature], steps[feature], q_max);
        let error = (moved[feature] - q[feature] * steps[feature]) / inverse[0];
        for (at, &other) in left.iter().enumerate() {
            moved[other] -= error * inverse[at];
        }
    }
    q
}
