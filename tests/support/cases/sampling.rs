//! Cases of the sampling kernels.

use crate::case::{Case, Check};
use crate::rng::Rng;
use plateau_shaders::sampling::{argmax, argmax_parts, repeat_penalty, sample};

const VOCABS: [u32; 8] = [1, 63, 64, 65, 257, 1000, 32_003, 70_001];

pub fn cases() -> Vec<Case> {
    [
        argmax_parts_cases(),
        argmax_cases(),
        sample_cases(),
        repeat_penalty_cases(),
    ]
    .concat()
}

/// What [`argmax_parts`] finds.
fn best_of_parts(vocab: u32, logits: &[f32]) -> Vec<[u32; 2]> {
    let rows = logits.len() as u32 / vocab;
    let mut best = vec![[0; 2]; (rows * argmax_parts::parts(vocab)) as usize];
    argmax_parts::reference(&argmax_parts::Params { rows, vocab }, logits, &mut best);
    best
}

fn argmax_parts_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, vocab: u32, logits: &[f32]| {
        let rows = logits.len() as u32 / vocab;
        let params = argmax_parts::Params { rows, vocab };
        let best = vec![[u32::MAX; 2]; (rows * argmax_parts::parts(vocab)) as usize];
        cases.push(
            Case::new(
                &argmax_parts::KERNEL,
                format!("rows={rows} vocab={vocab} {name}"),
                params,
                argmax_parts::grid(&params),
            )
            .input(logits)
            .output(&best, Check::Exact),
        );
    };
    for vocab in VOCABS {
        let mut rng = Rng::new(u64::from(vocab));
        push(
            "uniform".into(),
            vocab,
            &rng.floats(3 * vocab as usize, 9.0),
        );
        // Few values, all negative: many ties.
        let ties: Vec<f32> = (0..5 * vocab).map(|_| -1.0 - rng.below(3) as f32).collect();
        push("ties".into(), vocab, &ties);
    }
    let mut row = vec![f32::NAN; 300];
    push("only NaN".into(), 300, &row);
    row[299] = f32::NEG_INFINITY;
    push("NaN and -inf".into(), 300, &row);
    row[120] = -0.0;
    row[260] = 0.0;
    row[7] = -f32::NAN;
    push("NaN and zeros".into(), 300, &row);
    row[270] = 1e-45;
    push("NaN and a subnormal".into(), 300, &row);
    cases
}

fn argmax_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, parts, window) in [
        (1, 1, 1),
        (3, 63, 64),
        (2, 64, 5),
        (5, 65, 63),
        (257, 126, 2),
        (4, 321, 64),
    ] {
        let params = argmax::Params {
            rows,
            parts,
            window,
        };
        let mut rng = Rng::new(u64::from(parts));
        // Few keys: many ties, of which the first counts. A row has only NaN.
        let best: Vec<[u32; 2]> = (0..rows * parts)
            .map(|i| {
                let key = if i / parts == 2 { 0 } else { rng.below(7) };
                [key, i % parts * argmax_parts::PART + rng.below(256)]
            })
            .collect();
        let row_info: Vec<[u32; 2]> = (0..rows)
            .map(|row| [rows - 1 - row, rng.below(3000)])
            .collect();
        let name = format!("rows={rows} parts={parts} window={window}");
        cases.push(
            Case::new(&argmax::KERNEL, name, params, argmax::grid(&params))
                .input(&best)
                .output(&vec![0u32; rows as usize], Check::Exact)
                .output(&row_info, Check::Exact)
                .output(&no_history(rows, window), Check::Exact),
        );
    }
    cases
}

fn no_history(sequences: u32, window: u32) -> Vec<u32> {
    vec![repeat_penalty::NO_TOKEN; (sequences * window) as usize]
}

/// Places of a sequence's history in the cases of `sample`.
const WINDOW: u32 = 3;

fn sample_case(
    name: impl Into<String>,
    params: sample::Params,
    logits: &[f32],
    row_info: &[[u32; 2]],
) -> Case {
    let sequences = row_info.iter().map(|[sequence, _]| sequence + 1);
    let history = no_history(sequences.max().unwrap_or(0), WINDOW);
    Case::new(&sample::KERNEL, name, params, sample::grid(&params))
        .input(logits)
        .input(&best_of_parts(params.vocab, logits))
        .output(&vec![u32::MAX; params.rows as usize], Check::Exact)
        .output(row_info, Check::Exact)
        .output(&history, Check::Exact)
}

/// No boundary of the filters or of the draw is nearer than what f32 sums and `exp` may be wrong by.
fn has_room(params: &sample::Params, logits: &[f32], u: f64) -> bool {
    const SUM_ERROR: f64 = 2e-5;
    const FILTER_ERROR: f32 = 2e-5;
    let drawn = sample::draw(params, logits, u);
    let filters = [-FILTER_ERROR, 0.0, FILTER_ERROR].map(|error| sample::Params {
        top_p: if params.top_p < 1.0 {
            params.top_p + error
        } else {
            params.top_p
        },
        min_p: params.min_p * (1.0 + error),
        ..*params
    });
    let draws = [-SUM_ERROR, 0.0, SUM_ERROR].map(|error| (u + error).clamp(0.0, 1.0));
    filters.iter().all(|params| {
        draws
            .iter()
            .all(|&u| sample::draw(params, logits, u) == drawn)
    })
}

fn sample_cases() -> Vec<Case> {
    // (top_k, top_p, min_p, inv_temp)
    const SETTINGS: [(u32, f32, f32, f32); 9] = [
        (0, 1.0, 0.0, 1.0),
        (1, 1.0, 0.0, 1.0),
        (40, 1.0, 0.0, 1.25),
        (0, 0.9, 0.0, 1.0),
        (0, 1.0, 0.05, 0.7),
        (40, 0.95, 0.05, 1.25),
        (7, 0.5, 0.0, 0.3),
        (2000, 0.0, 0.0, 1.0),
        (3, 0.999, 0.5, 2.0),
    ];
    let mut cases = Vec::new();
    for vocab in VOCABS {
        for (seed, (top_k, top_p, min_p, inv_temp)) in SETTINGS.into_iter().enumerate() {
            let rows = 4;
            let seed_lo = seed as u32 * 77 + vocab;
            let params = sample::Params {
                rows,
                vocab,
                top_k,
                top_p,
                min_p,
                inv_temp,
                seed_lo,
                seed_hi: 5,
                window: WINDOW,
            };
            let mut rng = Rng::new(u64::from(seed_lo));
            let row_info: Vec<[u32; 2]> = (0..rows)
                .map(|row| [row * 3 % 5, rng.below(5000)])
                .collect();
            let mut logits = Vec::new();
            for &[sequence, position] in &row_info {
                let u = sample::uniform(&params, sequence, position);
                let row = loop {
                    // Peaked as a model's logits are, a third of them on a grid of few values: ties at the thresholds.
                    let peaked = |rng: &mut Rng| {
                        12.0 * rng.unit().powi(3) + if rng.below(50) == 0 { 6.0 } else { 0.0 }
                    };
                    let mut row: Vec<f32> = (0..vocab).map(|_| peaked(&mut rng)).collect();
                    row.iter_mut()
                        .step_by(3)
                        .for_each(|logit| *logit = logit.round());
                    if vocab > 100 {
                        row[17] = f32::NAN;
                        row[18] = f32::NEG_INFINITY;
                        row[19] = -0.0;
                    }
                    if has_room(&params, &row, u) {
                        break row;
                    }
                };
                logits.extend(row);
            }
            let name = format!(
                "vocab={vocab} top_k={top_k} top_p={top_p} min_p={min_p} inv_temp={inv_temp}"
            );
            cases.push(sample_case(name, params, &logits, &row_info));
        }
    }
    // The same distribution at many positions, of which all but a few have room: each draws its own number.
    let rows = 300;
    let logits = [1.0f32, 0.0, 2.0, -1.0, 1.5];
    let params = sample::Params {
        rows,
        vocab: 5,
        top_k: 4,
        top_p: 1.0,
        min_p: 0.0,
        inv_temp: 0.8,
        seed_lo: 9,
        seed_hi: u32::MAX,
        window: WINDOW,
    };
    let places = (0u32..).map(|i| [i, i * 7919]);
    let with_room = |&[sequence, position]: &[u32; 2]| {
        has_room(
            &params,
            &logits,
            sample::uniform(&params, sequence, position),
        )
    };
    let row_info: Vec<[u32; 2]> = places.filter(with_room).take(rows as usize).collect();
    let logits = logits.repeat(rows as usize);
    cases.push(sample_case("many positions", params, &logits, &row_info));
    // As many of the largest logit as fill most of the list of candidates, and more than it holds.
    for ties in [700, 3000] {
        let params = sample::Params {
            rows: 2,
            vocab: 32_003,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            inv_temp: 1.25,
            seed_lo: ties,
            seed_hi: 1,
            window: WINDOW,
        };
        let mut rng = Rng::new(u64::from(ties));
        let row_info = [[1, 77], [0, 3]];
        let mut logits = Vec::new();
        for [sequence, position] in row_info {
            let u = sample::uniform(&params, sequence, position);
            logits.extend(loop {
                let mut row = rng.floats(params.vocab as usize, 2.0);
                for _ in 0..ties {
                    row[rng.below(params.vocab) as usize] = 3.0;
                }
                if has_room(&params, &row, u) {
                    break row;
                }
            });
        }
        cases.push(sample_case(
            format!("ties={ties}"),
            params,
            &logits,
            &row_info,
        ));
    }
    // Nothing finite to draw: only NaN, NaN and -inf, all -inf but one.
    let mut logits = [f32::NAN; 3 * 70];
    logits[70 + 33] = f32::NEG_INFINITY;
    logits[140..].fill(f32::NEG_INFINITY);
    logits[140 + 69] = -1e30;
    let params = sample::Params {
        rows: 3,
        vocab: 70,
        top_k: 0,
        top_p: 0.9,
        min_p: 0.1,
        inv_temp: 1.0,
        seed_lo: 0,
        seed_hi: 0,
        window: WINDOW,
    };
    let places = [[0, 0], [1, 1], [2, 2]];
    cases.push(sample_case("NaN and -inf", params, &logits, &places));
    cases
}

fn repeat_penalty_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, vocab, window) in [
        (1, 1, 1),
        (3, 63, 64),
        (2, 257, 63),
        (5, 1000, 65),
        (1, 32_003, 257),
    ] {
        let params = repeat_penalty::Params::new(rows, vocab, window, 1.3);
        let mut rng = Rng::new(u64::from(vocab));
        // Rows of other sequences than their own number; a history with repeated tokens, empty places and one token too large.
        let row_info: Vec<[u32; 2]> = (0..rows).map(|row| [rows - 1 - row, 5]).collect();
        let mut history: Vec<u32> = (0..rows * window)
            .map(|_| rng.below(vocab.min(window)))
            .collect();
        history
            .iter_mut()
            .skip(2)
            .step_by(7)
            .for_each(|token| *token = repeat_penalty::NO_TOKEN);
        history
            .iter_mut()
            .skip(3)
            .step_by(50)
            .for_each(|token| *token = vocab);
        let mut logits = rng.floats((rows * vocab) as usize, 8.0);
        logits[0] = 0.0;
        cases.push(
            Case::new(
                &repeat_penalty::KERNEL,
                format!("rows={rows} vocab={vocab} window={window}"),
                params,
                repeat_penalty::grid(&params),
            )
            .input(&row_info)
            .input(&history)
            .output(&logits, Check::Exact),
        );
    }
    cases
}
