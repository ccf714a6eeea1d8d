//! Every case of every kernel: the shader on each adapter, under the portable limits, against its twin.

use plateau::exec::{AttentionChoice, DeviceError, Executor, GpuOptions, KernelChoice, open_all};
use plateau::plan::{BufferDesc, BufferId, Grid};
use plateau_shaders::{Kernel, Matrices};
use plateau_tests::cases::Large;
use plateau_tests::peaks::Peak;
use plateau_tests::{Case, cases, device, rng, run};

/// `PLATEAU_CASE=gemm_i4` runs only the cases whose kernel or name contains the word.
fn selected() -> Vec<Case> {
    let word = std::env::var("PLATEAU_CASE").unwrap_or_default();
    cases::all()
        .into_iter()
        .filter(|case| format!("{} {}", case.kernel.name, case.name).contains(&word))
        .collect()
}

/// Runs `cases` on `device`, against the twins.
async fn check_all<'a>(device: &mut Executor, cases: impl Iterator<Item = &'a Case>) {
    let (mut count, mut failures) = (0, Vec::new());
    for case in cases {
        count += 1;
        if let Err(message) = run::check(device, case).await {
            failures.push(format!("{} [{}]: {message}", case.kernel.name, case.name));
        }
    }
    println!(
        "{}: {} of {count} cases agree",
        device.name(),
        count - failures.len()
    );
    assert!(
        failures.is_empty(),
        "on {}:\n{}",
        device.name(),
        failures.join("\n")
    );
}

#[test]
fn shaders_equal_their_twins() {
    pollster::block_on(async {
        let cases = selected();
        for mut device in device::portable_devices().await {
            let portable = cases.iter().filter(|case| !case.kernel.subgroups);
            check_all(&mut device, portable).await;
        }
    });
}

#[test]
fn shaders_with_subgroups_equal_their_twins() {
    pollster::block_on(async {
        let cases = selected();
        for mut device in device::devices(GpuOptions::default()).await {
            if device.features().subgroups {
                let with = cases
                    .iter()
                    .filter(|case| case.kernel.subgroups && case.kernel.matrices().is_none());
                check_all(&mut device, with).await;
            } else {
                device::say_left_out(device.name(), "kernels with subgroups, which it lacks");
            }
        }
    });
}

/// What speeds are compared with: checked as every kernel is.
#[test]
fn peaks_equal_their_twins() {
    let cases = Peak::ALL.map(|peak| peak.case(0));
    pollster::block_on(async {
        for mut device in device::devices(GpuOptions::default()).await {
            let (with, without): (Vec<&Case>, Vec<&Case>) = cases
                .iter()
                .partition(|case| run::not_supported(&device, case).is_none());
            for case in without {
                let why = run::not_supported(&device, case).unwrap_or_default();
                device::say_left_out(device.name(), &format!("{}: {why}", case.kernel.name));
            }
            check_all(&mut device, with.into_iter()).await;
        }
    });
}

/// Many rows of which the twin runs some.
#[test]
fn repeated_rows_are_those_of_the_twin() {
    let large = Large {
        rows: 70,
        in_features: 96,
        out_features: 65,
    };
    let cases = large.cases();
    assert!(cases.iter().all(|case| case.repeats.is_some()));
    let names = cases
        .iter()
        .map(|case| (case.kernel.name, case.name.clone()));
    assert_eq!(names.collect::<Vec<_>>(), large.names());
    let mut wrong = cases[0].clone();
    // A row of x that is not a repeat of an earlier one.
    let last = wrong.buffers[0].len() - 1;
    wrong.buffers[0][last] = 1f32.to_bits();
    pollster::block_on(async {
        for mut device in device::portable_devices().await {
            let supported = |case: &&Case| run::not_supported(&device, case).is_none();
            let cases: Vec<&Case> = cases.iter().filter(supported).collect();
            check_all(&mut device, cases.into_iter()).await;
            assert!(run::check(&mut device, &wrong).await.is_err());
        }
    });
}

#[test]
fn other_seeds_give_other_inputs_and_0_those_of_the_tests() {
    let inputs = |salt| -> Vec<Vec<Vec<u32>>> {
        let cases = rng::salted(salt, cases::norm::cases);
        cases.into_iter().map(|case| case.buffers).collect()
    };
    let tests: Vec<_> = cases::norm::cases()
        .into_iter()
        .map(|case| case.buffers)
        .collect();
    assert!(inputs(0) == tests);
    assert!(inputs(1) == inputs(1) && inputs(1) != tests && inputs(1) != inputs(2));
}

/// The adapters that have what `options` ask of matrices; says which have not, and why.
async fn devices_with_matrices(options: GpuOptions) -> Vec<Executor> {
    let mut devices = Vec::new();
    for opened in open_all(options).await {
        match opened {
            Ok(gpu) => devices.push(Executor::Gpu(Box::new(gpu))),
            Err(DeviceError::Kernels {
                name,
                wanted,
                reason,
            }) => device::say_left_out(&name, &format!("kernels of {wanted}: {reason}")),
            Err(error) => panic!("{error}"),
        }
    }
    devices
}

/// The linears on `matrices`.
async fn check_with_matrices(kernels: KernelChoice, matrices: Matrices) {
    let cases = selected();
    let options = GpuOptions {
        kernels,
        ..GpuOptions::default()
    };
    for mut device in devices_with_matrices(options).await {
        let with = cases.iter().filter(|case| {
            case.kernel.matrices() == Some(matrices) && case.kernel.name.starts_with("gemm")
        });
        check_all(&mut device, with).await;
    }
}

#[test]
fn shaders_with_f16_matrices_equal_their_twins() {
    pollster::block_on(check_with_matrices(KernelChoice::Coop, Matrices::F16));
}

#[test]
fn shaders_with_f16_matrices_of_8_equal_their_twins() {
    pollster::block_on(check_with_matrices(KernelChoice::Coop, Matrices::F16By8));
}

#[test]
fn shaders_with_int8_matrices_equal_their_twins() {
    pollster::block_on(check_with_matrices(KernelChoice::CoopInt8, Matrices::Int8));
}

const MATRIX_ATTENTION: GpuOptions = GpuOptions {
    portable: false,
    kernels: KernelChoice::Dot4,
    attention: AttentionChoice::Coop,
    ..GpuOptions::PORTABLE
};

#[test]
fn attention_on_matrices_equals_its_twin() {
    let cases = selected();
    pollster::block_on(async {
        for mut device in devices_with_matrices(MATRIX_ATTENTION).await {
            let with = cases.iter().filter(|case| {
                case.kernel.matrices().is_some() && !case.kernel.name.starts_with("gemm")
            });
            check_all(&mut device, with).await;
        }
    });
}

/// A row's bits do not depend on its tile.
#[test]
fn attention_on_matrices_gives_the_same_bits_in_any_tile() {
    pollster::block_on(async {
        for mut device in devices_with_matrices(MATRIX_ATTENTION).await {
            for (a, b) in &cases::attention::equal_pairs_of_matrices() {
                let found = (outputs(&mut device, a).await, outputs(&mut device, b).await);
                let name = device.name();
                assert!(found.0 == found.1, "on {name}: [{}] in other tiles", a.name);
            }
        }
    });
}

#[test]
fn every_kernel_has_a_case_and_names_are_unique() {
    let cases = cases::all();
    for kernel in plateau_shaders::KERNELS {
        assert!(
            cases.iter().any(|case| case.kernel.name == kernel.name),
            "{} has no case",
            kernel.name
        );
    }
    let mut names: Vec<String> = cases
        .iter()
        .map(|case| format!("{} {}", case.kernel.name, case.name))
        .collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two cases share a name");
}

/// What must not depend on which kernel runs: the same outputs, bit for bit, on one device.
#[test]
fn kernels_of_one_operation_give_the_same_bits() {
    let pairs = [
        cases::linear_float::equal_pairs(),
        cases::attention::equal_pairs(),
    ]
    .concat();
    pollster::block_on(async {
        for mut device in device::portable_devices().await {
            for (a, b) in &pairs {
                let found = (
                    run::run(&mut device, a).await,
                    run::run(&mut device, b).await,
                );
                let what = format!(
                    "{} [{}] and {} [{}]",
                    a.kernel.name, a.name, b.kernel.name, b.name
                );
                match found {
                    (Ok(a), Ok(b)) => assert!(a == b, "on {}: {what} differ", device.name()),
                    (Err(error), _) | (_, Err(error)) => {
                        panic!("on {}: {what}: {error}", device.name())
                    }
                }
            }
        }
    });
}

#[test]
fn an_opened_device_runs_the_gemms_that_were_fastest_in_its_trial() {
    pollster::block_on(async {
        let options = GpuOptions {
            always_try: true,
            ..GpuOptions::default()
        };
        for device in device::devices(options).await {
            let adapter = device.adapter().expect("a GPU was opened");
            let trial = &adapter.gemms;
            assert!(trial.len() >= 2, "{}: {trial:?}", adapter.name);
            assert!(
                trial.is_sorted_by(|a, b| 0.0 < a.1 && a.1 <= b.1),
                "{trial:?}"
            );
            assert_eq!(device.features().gemms, trial[0].0, "{}", adapter.name);
        }
    });
}

/// Rope, the append and attention in one dispatch, with the pages in one workgroup or split over several: no bit differs from
/// those of a dispatch for each.
#[test]
fn fused_and_split_attention_changes_no_bit() {
    pollster::block_on(async {
        let mut devices = device::portable_devices().await;
        devices.extend(device::devices(GpuOptions::default()).await);
        for mut device in devices {
            check_ways(&mut device, cases::attention::ways()).await;
        }
    });
}

#[test]
fn decode_and_prefill_on_matrices_give_the_same_bits() {
    pollster::block_on(async {
        for mut device in devices_with_matrices(MATRIX_ATTENTION).await {
            check_ways(&mut device, cases::attention::ways_on_matrices()).await;
        }
    });
}

async fn check_ways(device: &mut Executor, ways: Vec<cases::attention::Ways>) {
    for way in ways {
        let [rope, mut append, mut attention] = way.apart;
        let qkv = outputs(device, &rope).await.remove(0);
        append.buffers[2] = qkv.clone();
        let pools = outputs(device, &append).await;
        attention.buffers[2] = qkv;
        attention.buffers[3] = pools[0].clone();
        attention.buffers[4] = pools[1].clone();
        let y = outputs(device, &attention).await.remove(0);
        let expected = [pools, vec![y]].concat();
        let what = format!("on {}: {}", device.name(), way.name);
        for whole in &way.wholes {
            if run::not_supported(device, whole).is_none() {
                let found = outputs(device, whole).await;
                assert!(
                    found == expected,
                    "{what}: whole, {:?}, the bits differ",
                    whole.constants
                );
            }
        }
        let mut merge = way.merge;
        for split in &way.splits {
            let kernel = split.kernel.name;
            let mut split = outputs(device, split).await;
            merge.buffers[1] = split.remove(2);
            split.extend(outputs(device, &merge).await);
            assert!(split == expected, "{what}: {kernel}, the bits differ");
        }
    }
}

async fn outputs(device: &mut Executor, case: &Case) -> Vec<Vec<u32>> {
    let found = run::run(device, case).await;
    found.unwrap_or_else(|error| panic!("{} [{}]: {error}", case.kernel.name, case.name))
}

/// A fused kernel changes no bit of what two kernels would write, and near a tie it is a step from the twin, not more: of the
/// value, before it was flattened.
#[test]
fn attention_to_flat_integers_is_attention_and_flatten_quantize() {
    pollster::block_on(async {
        for mut device in device::portable_devices().await {
            let (mut count, mut off) = (0, 0);
            for two in cases::attention::FLATS
                .iter()
                .flat_map(|flat| flat.in_two())
            {
                let fused = &two.fused;
                let what = format!("{} [{}]", fused.kernel.name, fused.name);
                let found = run::run(&mut device, fused).await.expect(&what);
                let y = run::run(&mut device, &two.attention).await.expect(&what);
                let quantize = two.flat.flatten_quantize(&y[0]);
                let expected = run::run(&mut device, &quantize).await.expect(&what);
                let name = device.name();
                assert!(
                    found == expected,
                    "{what} on {name}: other bits than by two"
                );

                let twin = run::run(&mut Executor::twin(), fused).await.expect(&what);
                let sums = |words: &[u32]| two.flat.sums(words).expect(&what);
                let (found, twin) = (sums(&found[0]), sums(&twin[0]));
                let steps = found.iter().zip(&twin).map(|(a, b)| a.abs_diff(*b));
                count += found.len();
                off += steps.clone().filter(|&step| step > 0).count();
                assert!(
                    steps.max() <= Some(1),
                    "{what} on {name}: more than a step off"
                );
            }
            println!("{}: {off} of {count} integers a step off", device.name());
            // What is a step off lies at a tie: of random values, nearly nothing does.
            assert!(off * 1000 <= count, "{off} of {count} integers differ");
        }
    });
}

/// The smallest case of each kernel that has several workgroups, or its first.
fn small_grids() -> Vec<Case> {
    let cases = cases::all();
    let small = |kernel: &Kernel| {
        let of_kernel = cases.iter().filter(|case| case.kernel.name == kernel.name);
        of_kernel
            .min_by_key(|case| (case.grid == [1, 1, 1], case.bytes() + case.ops))
            .expect("every kernel has a case")
            .clone()
    };
    let portable = |kernel: &&&Kernel| !kernel.subgroups;
    plateau_shaders::KERNELS
        .iter()
        .filter(portable)
        .map(|kernel| small(kernel))
        .collect()
}

#[test]
fn a_grid_in_a_buffer_gives_the_same_bits_as_a_fixed_one() {
    /// The grid stands somewhere in its buffer.
    const OFFSET: u64 = 5;
    let cases = small_grids();
    assert!(
        cases.iter().filter(|case| case.grid != [1, 1, 1]).count() > cases.len() / 2,
        "the grids are trivial"
    );
    pollster::block_on(async {
        for mut device in device::portable_devices().await {
            let name = device.name().to_owned();
            let desc = BufferDesc {
                label: "grid".to_owned(),
                words: OFFSET + 3,
            };
            device.allocate(&desc).await.expect("some words");
            let buffer = BufferId::Shared(0);
            let grid = Grid::Indirect {
                buffer,
                offset: OFFSET,
            };
            for case in &cases {
                let what = format!("{} [{}] on {name}", case.kernel.name, case.name);
                let fixed = run::run(&mut device, case).await.expect(&what);
                device
                    .write(buffer, OFFSET, &case.grid)
                    .expect("the grid's words");
                let indirect = run::run_in_grid(&mut device, case, grid)
                    .await
                    .expect(&what);
                assert!(indirect == fixed, "{what}: the grid of a buffer differs");
                // No workgroup at all: the words are read where the dispatch runs, not before.
                device
                    .write(buffer, OFFSET, &[0; 3])
                    .expect("the grid's words");
                let none = run::run_in_grid(&mut device, case, grid)
                    .await
                    .expect(&what);
                let before: Vec<&Vec<u32>> = case
                    .outputs
                    .iter()
                    .map(|(binding, _)| &case.buffers[binding - 1])
                    .collect();
                assert!(
                    none.iter().eq(before),
                    "{what}: an empty grid wrote something"
                );
                assert!(fixed != none, "{what}: the case writes nothing");
            }
        }
    });
}
