//! Means with their standard errors, quantiles, and what softmax needs of a row of logits.

/// Mean and spread of some values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    count: u64,
    sum: f64,
    sum_of_squares: f64,
}

impl Tally {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.sum_of_squares += value * value;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// NaN of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Of the mean, as if the values were independent: the sample's standard deviation over the square root of the count, as
    /// in lm-evaluation-harness. Of shares (values 0 and 1) it is √(p (1−p) / (n−1)). 0 for less than two values.
    pub fn standard_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.sum_of_squares / self.count as f64 - self.mean().powi(2);
        (variance.max(0.0) / (self.count - 1) as f64).sqrt()
    }
}

impl Extend<f64> for Tally {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.add(value));
    }
}

/// The value below which a share of `sorted` lies, between neighbours by a straight line (numpy's default); NaN of nothing.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (at - at.floor()) * (sorted[above] - sorted[below])
}

/// A row of logits, [vocab], with what its softmax needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitRow<'a> {
    logits: &'a [f32],
    /// ln Σ exp(logit)
    log_sum: f64,
    /// The largest logit's index, the first of equal ones.
    pub top: usize,
}

impl<'a> LogitRow<'a> {
    /// `None` where a logit is not finite, or there is none.
    pub fn new(logits: &'a [f32]) -> Option<Self> {
        let (&first, rest) = logits.split_first()?;
        if !logits.iter().all(|logit| logit.is_finite()) {
            return None;
        }
        let (mut top, mut max) = (0, first);
        for (i, &logit) in (1..).zip(rest) {
            if logit > max {
                (top, max) = (i, logit);
            }
        }
        let max = f64::from(max);
        let sum: f64 = logits.iter().map(|&l| libm::exp(f64::from(l) - max)).sum();
        let log_sum = max + libm::log(sum);
        Some(Self {
            logits,
            log_sum,
            top,
        })
    }

    /// ln softmax(logits)[token]; `None` beyond the vocabulary.
    pub fn log_probability(&self, token: u32) -> Option<f64> {
        let logit = self.logits.get(token as usize)?;
        Some(f64::from(*logit) - self.log_sum)
    }

    /// KL(softmax(self) ‖ softmax(other)), in nats. Both rows have one length. What rounding would make negative is 0.
    pub fn divergence(&self, other: &LogitRow<'_>) -> f64 {
        let pairs = self.logits.iter().zip(other.logits);
        let sum: f64 = pairs
            .map(|(&own, &others)| {
                let own = f64::from(own) - self.log_sum;
                libm::exp(own) * (own - (f64::from(others) - other.log_sum))
            })
            .sum();
        sum.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(logits: &[f32]) -> LogitRow<'_> {
        LogitRow::new(logits).expect("finite")
    }

    /// Logits are f32, so a probability that is not a power of two is off by their rounding.
    const OF_F32: f64 = 1e-6;
    const OF_F64: f64 = 1e-12;

    #[test]
    fn the_tally_gives_mean_and_standard_error() {
        let mut tally = Tally::default();
        tally.extend([1.0, 2.0, 3.0, 4.0]);
        assert_eq!((tally.count(), tally.mean()), (4, 2.5));
        // Sample variance 5/3, over four values.
        assert!((tally.standard_error() - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < OF_F64);
        let mut one = Tally::default();
        assert!(one.mean().is_nan());
        one.add(7.0);
        assert_eq!((one.mean(), one.standard_error()), (7.0, 0.0));
    }

    #[test]
    fn a_share_has_the_standard_error_of_a_share() {
        let mut tally = Tally::default();
        tally.extend([1.0, 0.0, 0.0, 1.0, 1.0]);
        let expected = (0.6f64 * 0.4 / 4.0).sqrt();
        assert!((tally.standard_error() - expected).abs() < OF_F64);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [0.0, 1.0, 2.0, 10.0];
        for (share, expected) in [
            (0.0, 0.0),
            (0.5, 1.5),
            (0.9, 7.6),
            (1.0, 10.0),
            (1.0 / 3.0, 1.0),
        ] {
            assert!(
                (quantile(&values, share) - expected).abs() < OF_F64,
                "{share}"
            );
        }
        assert_eq!(quantile(&[3.0], 0.99), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn log_probabilities_are_those_of_softmax() {
        let flat = row(&[0.0; 8]).log_probability(3);
        assert!((flat.expect("in the vocabulary") + 8f64.ln()).abs() < OF_F64);
        let expected = (1f64.exp() / (1f64.exp() + 2f64.exp() + 3f64.exp())).ln();
        let found = row(&[1.0, 2.0, 3.0]).log_probability(0);
        assert!((found.expect("in the vocabulary") - expected).abs() < OF_F64);
        let large = row(&[1000.0, 1000.0]).log_probability(1);
        assert!((large.expect("in the vocabulary") + 2f64.ln()).abs() < OF_F64);
        assert_eq!(row(&[1.0]).log_probability(1), None);
    }

    #[test]
    fn what_is_not_finite_has_no_softmax() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(LogitRow::new(&[1.0, bad, 0.0]).is_none());
            assert!(LogitRow::new(&[bad, 1.0]).is_none());
        }
        assert!(LogitRow::new(&[]).is_none());
    }

    #[test]
    fn the_top_is_the_first_of_equal_logits() {
        assert_eq!(row(&[1.0, 3.0, 3.0, 2.0]).top, 1);
        assert_eq!(row(&[-0.0, 0.0]).top, 0);
    }

    #[test]
    fn divergence_is_that_of_the_two_distributions() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 - 1/4 ln 2.
        let p = [4f32.ln(), 2f32.ln(), 2f32.ln()];
        let q = [1f32.ln(), 1f32.ln(), 2f32.ln()];
        let expected = 0.25 * 2f64.ln();
        assert!((row(&p).divergence(&row(&q)) - expected).abs() < OF_F32);
        // A shift of all logits changes nothing.
        let shifted = p.map(|logit| logit + 8.0);
        assert!(row(&p).divergence(&row(&shifted)) < OF_F32);
    }

    #[test]
    fn divergence_is_zero_on_equal_logits_and_never_negative() {
        let wide: Vec<f32> = (0..257).map(|i| (i as f32 * 0.7).sin() * 30.0).collect();
        assert_eq!(row(&wide).divergence(&row(&wide)), 0.0);
        // A probability of 0 in f64 is no NaN.
        let far = [0.0, -2000.0, 3.0];
        assert_eq!(row(&far).divergence(&row(&far)), 0.0);
        for i in 0..100 {
            let near: Vec<f32> = wide.iter().map(|&l| l + 1e-6 * (i as f32)).collect();
            let other: Vec<f32> = wide.iter().rev().copied().collect();
            assert!(row(&wide).divergence(&row(&near)) >= 0.0);
            assert!(row(&near).divergence(&row(&other)) > 0.0);
        }
    }
}
