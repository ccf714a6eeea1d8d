//! The choice of bits: KL divergence, the limit, the share of work, the budget of bytes.

use plateau::quantize::bit_width::{
    Candidate, Divergence, Histogram, OverBudget, Sensitivity, choose_by_limit, choose_by_share,
    choose_within, kl_divergence,
};
use plateau::tensor::Bits;
use plateau_tests::{Rng, compare, tolerance};

fn int4(bits: &[Bits]) -> usize {
    bits.iter().filter(|&&bits| bits == Bits::Int4).count()
}

#[test]
fn kl_is_zero_on_equal_histograms_and_positive_on_others() {
    let mut rng = Rng::new(51);
    for _ in 0..20 {
        let p: Vec<f64> = rng
            .integers(50, 40)
            .iter()
            .map(|&c| f64::from(c.abs()))
            .collect();
        let q: Vec<f64> = p.iter().rev().map(|p| p + 1.0).collect();
        assert_eq!(kl_divergence(&p, &p), 0.0);
        let doubled: Vec<f64> = p.iter().map(|p| 2.0 * p).collect();
        assert_eq!(kl_divergence(&p, &doubled), 0.0);
        assert!(kl_divergence(&p, &q) > 0.0);
    }
    let by_hand = 0.25 * (0.25_f64 / 0.5).ln() + 0.75 * (0.75_f64 / 0.5).ln();
    let found = kl_divergence(&[1.0, 3.0], &[5.0, 5.0]);
    compare::close(&[found], &[by_hand], tolerance::SAME_FORMULA).expect("the formula");
    assert_eq!(kl_divergence(&[1.0, 1.0], &[1.0, 0.0]), f64::INFINITY);
    assert_eq!(kl_divergence(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
}

#[test]
fn a_histogram_counts_every_value_once() {
    let mut histogram = Histogram::new(2.0, 4);
    histogram.add(&[-2.0, -1.5, -1.0, -0.1, 0.0, 0.5, 1.0, 2.0, 9.0, -9.0]);
    assert_eq!(histogram.counts(), [3, 2, 2, 3]);
    let other = histogram.clone();
    histogram.merge(&other);
    assert_eq!(histogram.counts(), [6, 4, 4, 6]);
    let mut zeros = Histogram::new(0.0, 4);
    zeros.add(&[0.0; 5]);
    assert_eq!(zeros.counts().iter().sum::<u64>(), 5);
}

#[test]
fn values_on_the_steps_are_kept_and_finer_steps_are_nearer() {
    let mut rng = Rng::new(52);
    let mut exact = Histogram::new(7.0, Histogram::DEFAULT_BINS);
    exact.add(&[-7.0, -3.0, 0.0, 1.0, 2.0, 2.0, 6.0]);
    assert_eq!(exact.divergence(1.0, Bits::Int4.q_max()), 0.0);
    // A bell: the sum of some uniform values.
    let mut bell = Histogram::new(4.0, Histogram::DEFAULT_BINS);
    for _ in 0..20_000 {
        bell.add(&[rng.floats(4, 1.0).iter().sum()]);
    }
    let int8 = bell.divergence(4.0 / 127.0, Bits::Int8.q_max());
    let int4 = bell.divergence(4.0 / 7.0, Bits::Int4.q_max());
    assert!(0.0 < int8 && int8 < int4, "{int8} and {int4}");
    let total: f64 = bell.quantized(4.0 / 7.0, Bits::Int4.q_max()).iter().sum();
    compare::close(&[total], &[20_000.0], tolerance::SAME_FORMULA).expect("nothing is lost");
    // A scale of 0 is a tensor of zeros.
    assert!(bell.divergence(0.0, Bits::Int4.q_max()) > int4);
    assert_eq!(
        Histogram::new(1.0, 8).divergence(1.0, Bits::Int4.q_max()),
        0.0
    );
}

#[test]
fn int4_is_chosen_only_below_the_limit_and_monotonously() {
    let mut rng = Rng::new(53);
    let layers: Vec<[Divergence; 2]> = (0..40)
        .map(|_| {
            [(); 2].map(|()| Divergence {
                int4: f64::from(rng.unit().abs()),
                int8: 0.1,
            })
        })
        .collect();
    let mut before = vec![Bits::Int8; 40];
    for limit in [0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 11.0] {
        let bits = choose_by_limit(&layers, limit);
        for ((tensors, bits), before) in layers.iter().zip(&bits).zip(&before) {
            let under = tensors.iter().all(|divergence| divergence.ratio() <= limit);
            assert_eq!(under, *bits == Bits::Int4);
            assert!(*before == Bits::Int8 || *bits == Bits::Int4);
        }
        before = bits;
    }
    assert_eq!(int4(&before), 40);
    let perfect = Divergence {
        int4: 0.0,
        int8: 0.0,
    };
    assert_eq!(perfect.ratio(), 1.0);
    let lost = Divergence {
        int4: 1.0,
        int8: 0.0,
    };
    assert_eq!(choose_by_limit(&[[perfect, lost]], 1e9), [Bits::Int8]);
}

#[test]
fn a_share_takes_the_cheapest_work_first_and_no_more_than_it_needs() {
    let mut rng = Rng::new(54);
    let layers: Vec<Sensitivity> = (0..30)
        .map(|_| Sensitivity {
            cost: f64::from(rng.unit().abs()),
            macs: u64::from(1 + rng.below(9)),
        })
        .collect();
    let total: u64 = layers.iter().map(|layer| layer.macs).sum();
    let mut before = vec![Bits::Int8; 30];
    for share in [0.0, 0.1, 0.4829, 0.75, 1.0] {
        let bits = choose_by_share(&layers, share);
        let chosen = || {
            layers
                .iter()
                .zip(&bits)
                .filter(|(_, bits)| **bits == Bits::Int4)
        };
        let macs: u64 = chosen().map(|(layer, _)| layer.macs).sum();
        assert!(macs as f64 >= share * total as f64);
        let per_mac = |layer: &Sensitivity| layer.cost / layer.macs as f64;
        if let Some(dearest) = chosen()
            .map(|(layer, _)| layer)
            .max_by(|a, b| per_mac(a).total_cmp(&per_mac(b)))
        {
            assert!(((macs - dearest.macs) as f64) < share * total as f64);
            let others = layers
                .iter()
                .zip(&bits)
                .filter(|(_, bits)| **bits == Bits::Int8);
            assert!(
                others
                    .into_iter()
                    .all(|(layer, _)| per_mac(layer) >= per_mac(dearest))
            );
        }
        assert!(before.iter().zip(&bits).all(|(before, now)| now <= before));
        before = bits;
    }
    assert_eq!(int4(&before), 30);
}

#[test]
fn a_budget_is_kept_and_spent_where_it_saves_most() {
    let mut rng = Rng::new(55);
    // Few enough for every combination.
    let layers: Vec<Vec<Candidate>> = (0..5)
        .map(|_| {
            (0..4)
                .map(|_| Candidate {
                    bytes: u64::from(10 + rng.below(90)),
                    cost: f64::from(rng.unit().abs()),
                })
                .collect()
        })
        .collect();
    let totals = |choice: &[usize]| {
        let chosen = || layers.iter().zip(choice).map(|(layer, &at)| layer[at]);
        (
            chosen().map(|candidate| candidate.bytes).sum::<u64>(),
            chosen().map(|candidate| candidate.cost).sum::<f64>(),
        )
    };
    let all: Vec<(u64, f64)> = (0..4_usize.pow(5))
        .map(|code| totals(&[0, 1, 2, 3, 4].map(|layer| code / 4_usize.pow(layer) % 4)))
        .collect();
    let smallest = all.iter().map(|(bytes, _)| *bytes).min().expect("some");
    let largest_step = 90.0;
    let mut before = f64::INFINITY;
    for budget in (smallest..500).step_by(7) {
        let (bytes, cost) = totals(&choose_within(&layers, budget).expect("the smallest fits"));
        assert!(bytes <= budget);
        // Greedy along convex hulls is at worst one step from the best of that size.
        let best_below = all
            .iter()
            .filter(|(bytes, _)| *bytes as f64 <= budget as f64 - largest_step)
            .map(|(_, cost)| *cost)
            .fold(f64::INFINITY, f64::min);
        assert!(cost <= best_below, "{cost} and {best_below} at {budget}");
        before = before.min(cost);
    }
    let least: f64 = all
        .iter()
        .map(|(_, cost)| *cost)
        .fold(f64::INFINITY, f64::min);
    assert_eq!(before, least);
    assert_eq!(
        choose_within(&layers, smallest - 1),
        Err(OverBudget {
            smallest,
            budget: smallest - 1
        })
    );
}

#[test]
fn candidates_of_no_use_are_never_chosen() {
    let candidate = |bytes, cost| Candidate { bytes, cost };
    let layer = vec![
        candidate(20, 5.0),
        candidate(10, 9.0),
        candidate(10, 8.0),
        // Larger and worse, and above the line between its neighbours.
        candidate(30, 6.0),
        candidate(40, 4.9),
        candidate(50, 1.0),
    ];
    let chosen: Vec<usize> = (10..60)
        .map(|budget| choose_within(std::slice::from_ref(&layer), budget).expect("10 fits")[0])
        .collect();
    assert_eq!(chosen[..10], [2; 10]);
    assert_eq!(chosen[10..40], [0; 30]);
    assert_eq!(chosen[40..], [5; 10]);
}
