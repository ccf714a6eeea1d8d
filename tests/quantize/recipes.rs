//! Recipes over whole models: what is written can be read, computes about what the float model does, and is the same each time.

use plateau::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES, FLATTEN_PADDING, Fold};
use plateau::exec::Executor;
use plateau::quantize::calibrate::Samples;
use plateau::quantize::layer::{HostLayer, Producer};
use plateau::quantize::outliers::Outliers;
use plateau::quantize::pipeline::{LayerPlan, all_tensors, decide};
use plateau::quantize::recipe::{Activations, BitPolicy, RECIPES};
use plateau::quantize::report::totals;
use plateau::quantize::{QuantizeError, Recipe, Source, quantize};
use plateau::tensor::{Bits, WeightBits};
use plateau_shaders::linear::norm_input;
use plateau_tests::tolerance::{
    FLOAT_FEW_ULP, QUANTIZED_HEAD, QUANTIZED_INT4, QUANTIZED_INT4_BY_INT4, QUANTIZED_INT8,
    Tolerance,
};
use plateau_tests::{Rng, device, model};
use pollster::block_on;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const WINDOW: usize = 24;

/// Random text: the goldens are random models.
fn samples(checkpoint: &Checkpoint, windows: usize, seed: u64) -> Samples {
    let mut rng = Rng::new(seed);
    let ids: Vec<u32> = (0..windows * (WINDOW - 1))
        .map(|_| rng.below(checkpoint.config.vocab_size))
        .collect();
    Samples::new(&ids, Some(1), WINDOW, windows, 0).expect("some windows")
}

fn recipe(name: &str) -> Recipe {
    Recipe::named(name).expect("a recipe")
}

fn run(
    checkpoint: &Checkpoint,
    executor: &mut Executor,
    recipe: &Recipe,
    out: &Path,
) -> Result<Vec<LayerPlan>, QuantizeError> {
    let samples = samples(checkpoint, 6, 7);
    let source = Source {
        checkpoint,
        samples: recipe.needs_calibration().then_some(&samples),
        outliers: None,
    };
    block_on(quantize(
        &source,
        executor,
        recipe,
        out,
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ))
}

/// Every file of a folder.
fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let read = |path: &Path| std::fs::read(path).expect("readable");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.display()
                    .to_string()
                    .replace(&folder.display().to_string(), ""),
                read(&path),
            )
        })
        .collect()
}

/// Root mean square of the difference of the logits from the float model's, over theirs.
fn error(float: &Checkpoint, quantized: &Path) -> f64 {
    block_on(async {
        let ids: Vec<u32> = samples(float, 1, 99).windows[0].clone();
        let options = model::f32_options();
        let mut session = model::load(float, Executor::twin(), &options).await;
        let expected = model::logits(&mut session, &ids, None).await;
        let quantized = model::open(quantized).await;
        let options = plateau::session::LoadOptions::default();
        let mut session = model::load(&quantized, Executor::twin(), &options).await;
        let found = model::logits(&mut session, &ids, None).await;
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let difference = square(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(f - e)));
        (difference / square(&mut expected.iter().map(|e| f64::from(*e)))).sqrt()
    })
}

fn tolerance(name: &str) -> Option<Tolerance> {
    match name {
        "flattenquant-w8a8" | "smoothquant-w8a8" | "rtn-w8a8" | "rtn-w8a8-dynamic" => {
            Some(QUANTIZED_INT8)
        }
        "flattenquant-w4a8" | "rtn-w4a8" | "rtn-w4a16" | "gptq-w4a16" => Some(QUANTIZED_INT4),
        "flattenquant" => Some(QUANTIZED_INT4_BY_INT4),
        // The baselines that are expected to fail.
        _ => None,
    }
}

#[test]
fn every_recipe_quantizes_every_family() {
    let mut wrong = Vec::new();
    for folder in model::goldens() {
        let float = block_on(model::open(&folder));
        for (name, _) in RECIPES {
            let what = format!("{} {name}", folder.display());
            let out = tempfile::tempdir().expect("a folder");
            let plan = run(&float, &mut Executor::twin(), &recipe(name), out.path());
            let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = error(&float, out.path());
            println!("{what}: {found:.4}");
            assert!(found.is_finite(), "{what}");
            if let Some(tolerance) = tolerance(name).filter(|t| found > t.relative) {
                wrong.push(format!("{what}: {found:.4}, {}", tolerance.name));
            }
            let (_, int4_share, _) = totals(&plan);
            match recipe(name).bits {
                BitPolicy::Int4Share(share) => assert!(int4_share >= share, "{what}: {int4_share}"),
                BitPolicy::All {
                    weights: WeightBits::Int4,
                    activations: Bits::Int4,
                } => assert_eq!(int4_share, 1.0),
                _ => assert_eq!(int4_share, 0.0, "{what}"),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_stored_first_token_is_as_in_the_float_model_and_nothing_depends_on_chunks() {
    for folder in model::goldens() {
        let what = folder.display();
        let float = block_on(model::open(&folder));
        let ids = samples(&float, 1, 99).windows[0].clone();
        let vocab = float.config.vocab_size as usize;
        let out = tempfile::tempdir().expect("a folder");
        run(
            &float,
            &mut Executor::twin(),
            &recipe("flattenquant-w4a8"),
            out.path(),
        )
        .unwrap_or_else(|error| panic!("{what}: {error}"));
        block_on(async {
            let options = model::f32_options();
            let mut session = model::load(&float, Executor::twin(), &options).await;
            let expected = model::logits(&mut session, &ids, None).await;
            let quantized = model::open(out.path()).await;
            let options = plateau::session::LoadOptions::default();
            let mut session = model::load(&quantized, Executor::twin(), &options).await;
            let whole = model::logits(&mut session, &ids, None).await;
            let single = model::logits(&mut session, &ids, Some(1)).await;
            assert!(whole == single, "{what}");
            let largest = expected[..vocab]
                .iter()
                .fold(0.0_f32, |a, x| a.max(x.abs()));
            for (found, expected) in whole[..vocab].iter().zip(&expected[..vocab]) {
                let error = f64::from((found - expected).abs() / largest);
                assert!(
                    error <= QUANTIZED_HEAD.relative,
                    "{what}: {found} {expected}"
                );
            }
        });
    }
}

#[test]
fn the_same_input_makes_the_same_bytes_whatever_the_threads() {
    let folder = &model::goldens()[0];
    let float = block_on(model::open(folder));
    for name in ["flattenquant", "flattenquant-w4a8"] {
        let made = [1, 3].map(|threads| {
            let out = tempfile::tempdir().expect("a folder");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.expect("a pool");
            pool.install(|| run(&float, &mut Executor::twin(), &recipe(name), out.path()))
                .unwrap_or_else(|error| panic!("{error}"));
            bytes_of(out.path())
        });
        assert!(made[0] == made[1], "{name}");
        assert!(made[0].contains_key("/model.safetensors"));
    }
}

#[test]
fn a_gpu_calibrates_as_well_as_the_twins() {
    let folder = &model::goldens()[0];
    let float = block_on(model::open(folder));
    for mut executor in block_on(device::portable_devices()) {
        let out = tempfile::tempdir().expect("a folder");
        let written = run(&float, &mut executor, &recipe("flattenquant"), out.path());
        written.unwrap_or_else(|error| panic!("{}: {error}", executor.name()));
        let found = error(&float, out.path());
        assert!(
            found <= QUANTIZED_INT4_BY_INT4.relative,
            "{}: {found}",
            executor.name()
        );
    }
}

#[test]
fn injected_outliers_are_outliers_and_leave_the_products_alone() {
    let folder = &model::goldens()[0];
    let float = block_on(model::open(folder));
    let outliers = Outliers::default();
    let before = block_on(HostLayer::read(&float, 0)).expect("a layer");
    for (at, group) in float.config.layer_groups(0).iter().enumerate() {
        let Fold::Norm { weight, .. } = &group.fold else {
            continue;
        };
        let producer = Producer::of(&float.config, group);
        let scales = outliers.scales(0, at, producer.channels);
        let changed: Vec<usize> = (0..scales.len()).filter(|&j| scales[j] != 1.0).collect();
        assert!(!changed.is_empty());
        let mut after = before.clone();
        after.rescale(group, &producer, &scales);
        for &j in &changed {
            let factor = after.tensor(weight)[j] / before.tensor(weight)[j];
            assert!((5.0..=60.0).contains(&factor), "{factor}");
        }
        for linear in &group.linears {
            let columns = group.in_features as usize;
            let (old, new) = (before.weight(&linear.name), after.weight(&linear.name));
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                let j = at % columns;
                let (old, new) = (
                    f64::from(*old) * f64::from(before.tensor(weight)[j]),
                    f64::from(*new) * f64::from(after.tensor(weight)[j]),
                );
                assert!(
                    (old - new).abs() <= FLOAT_FEW_ULP.relative * old.abs(),
                    "{}: {old} {new}",
                    linear.name
                );
            }
        }
    }
}

#[test]
fn a_target_size_is_kept_and_more_room_is_used() {
    let folder = &model::goldens()[0];
    let float = block_on(model::open(folder));
    let samples = samples(&float, 6, 7);
    let source = Source {
        checkpoint: &float,
        samples: Some(&samples),
        outliers: None,
    };
    let chosen = |budget: u64| {
        let recipe = Recipe {
            bits: BitPolicy::Bytes(budget),
            ..recipe("flattenquant-w4a8")
        };
        let plan = block_on(decide(&source, &mut Executor::twin(), &recipe, &mut |_| {}))?;
        let tensors = all_tensors(&float, &recipe, &plan)?;
        let linears = plan.iter().flat_map(|layer| &layer.groups);
        let linears = linears.flat_map(|group| &group.linears);
        let bits: BTreeSet<WeightBits> = linears.map(|l| l.format.weight_bits).collect();
        let bytes = tensors.iter().map(|tensor| tensor.bytes()).sum::<u64>();
        Ok::<_, QuantizeError>((bytes, bits))
    };
    let (large, bits) = chosen(1 << 30).expect("room for everything");
    assert_eq!(bits, [WeightBits::Int8].into());
    let (least, smallest) = least_bytes(chosen(1_000).expect_err("no room"));
    let mut used = BTreeSet::new();
    let mut before = 0;
    for share in 0..8 {
        let budget = least + share * smallest / 8;
        let (bytes, bits) = chosen(budget).expect("room");
        assert!((before..=budget.min(large)).contains(&bytes), "{share}");
        before = bytes;
        used.extend(bits);
    }
    assert_eq!(used, WeightBits::ALL.into());
}

/// The least budget of a model, and what of it are the linears.
fn least_bytes(error: QuantizeError) -> (u64, u64) {
    match error {
        QuantizeError::OverBudget { rest, source } => (rest + source.smallest, source.smallest),
        other => panic!("another error: {other}"),
    }
}

#[test]
fn mixed_weights_are_written_and_read_with_integer_and_float_activations() {
    for folder in model::goldens() {
        let float = block_on(model::open(&folder));
        let file_size = |folder: &Path| -> u64 {
            let files = bytes_of(folder).into_iter();
            let tensors = files.filter(|(name, _)| name.ends_with(".safetensors"));
            tensors.map(|(_, bytes)| bytes.len() as u64).sum()
        };
        for activations in [
            Activations::Static,
            Activations::Dynamic,
            Activations::Float,
        ] {
            let what = format!("{} {activations:?}", folder.display());
            let recipe = |budget: u64| Recipe {
                bits: BitPolicy::Bytes(budget),
                activations,
                ..recipe("flattenquant-w4a8")
            };
            let out = tempfile::tempdir().expect("a folder");
            let none = run(&float, &mut Executor::twin(), &recipe(0), out.path());
            let (least, smallest) = least_bytes(none.expect_err("no room"));
            // Room for more than INT4, and less than INT8. (Half of what these small linears take is the header.)
            let budget = least + smallest / 8;
            let recipe = recipe(budget);
            let plan = run(&float, &mut Executor::twin(), &recipe, out.path());
            let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(file_size(out.path()) <= budget, "{what}");
            let found = error(&float, out.path());
            let linears = plan.iter().flat_map(|layer| &layer.groups);
            let linears = linears.flat_map(|group| &group.linears);
            let bits = linears.map(|linear| linear.format.weight_bits.count());
            let bits: Vec<u32> = bits.collect();
            println!("{what}: {found:.4} with {bits:?}");
            assert!(bits.contains(&5) || bits.contains(&6), "{what}: {bits:?}");
            assert!(found <= QUANTIZED_INT4.relative, "{what}: {found}");
        }
    }
}

#[test]
fn what_a_recipe_needs_is_asked_for() {
    let folder = &model::goldens()[0];
    let float = block_on(model::open(folder));
    let out = tempfile::tempdir().expect("a folder");
    let bare = Source {
        checkpoint: &float,
        samples: None,
        outliers: None,
    };
    let mut twin = Executor::twin();
    let done = block_on(quantize(
        &bare,
        &mut twin,
        &recipe("flattenquant"),
        out.path(),
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ));
    let error = done.expect_err("no samples");
    assert!(
        matches!(error, QuantizeError::NeedsCalibration { .. }),
        "{error}"
    );

    let mixed = Samples {
        windows: vec![vec![1; WINDOW], vec![2; WINDOW]],
    };
    let mixed = Source {
        samples: Some(&mixed),
        ..bare
    };
    let done = block_on(quantize(
        &mixed,
        &mut twin,
        &recipe("flattenquant"),
        out.path(),
        DEFAULT_SHARD_BYTES,
        &mut |_| {},
    ));
    let error = done.expect_err("two first tokens");
    assert!(matches!(error, QuantizeError::Prefix { .. }), "{error}");
    assert!(bytes_of(out.path()).is_empty());
}

#[test]
fn the_words_of_a_head_and_of_a_tile_are_its_own() {
    for folder in model::goldens() {
        let what = folder.display();
        let float = block_on(model::open(&folder));
        let samples = samples(&float, 6, 7);
        let source = Source {
            checkpoint: &float,
            samples: Some(&samples),
            outliers: None,
        };
        let recipe = recipe("flattenquant-w4a8");
        let plan = block_on(decide(&source, &mut Executor::twin(), &recipe, &mut |_| {}));
        let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
        for group in plan.iter().flat_map(|layer| &layer.groups) {
            // What writes the input has one workgroup for so many channels.
            let tile = match group.group.fold {
                Fold::Linear { per_head: true, .. } => float.config.head_dim,
                Fold::Linear { .. } => norm_input::TILE,
                _ => continue,
            };
            for linear in &group.linears {
                let input = linear.input.as_ref().expect("static");
                let mut owners: BTreeMap<usize, u32> = BTreeMap::new();
                for (at, word) in input.map.words().iter().enumerate() {
                    if *word == FLATTEN_PADDING {
                        continue;
                    }
                    let owner = (word & 0xff_ffff) / tile;
                    let word = (input.map.features() + at) / 4;
                    let first = *owners.entry(word).or_insert(owner);
                    assert_eq!(first, owner, "{what}: {}", linear.shape.name);
                }
                assert!(
                    !owners.is_empty(),
                    "{what}: {} is not flattened",
                    linear.shape.name
                );
            }
        }
    }
}
