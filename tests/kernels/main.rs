//! Every case of every kernel: the shader on each adapter, under the portable limits, against its twin.

use plateau_tests::{Case, cases, device, run};

/// `PLATEAU_CASE=gemm_i4` runs only the cases whose kernel or name contains the word.
fn selected() -> Vec<Case> {
    let word = std::env::var("PLATEAU_CASE").unwrap_or_default();
    cases::all()
        .into_iter()
        .filter(|case| format!("{} {}", case.kernel.name, case.name).contains(&word))
        .collect()
}

#[test]
fn shaders_equal_their_twins() {
    pollster::block_on(async {
        let cases = selected();
        for mut device in device::portable_devices().await {
            let mut failures = Vec::new();
            for case in &cases {
                if let Err(message) = run::check(&mut device, case).await {
                    failures.push(format!("{} [{}]: {message}", case.kernel.name, case.name));
                }
            }
            println!(
                "{}: {} of {} cases agree",
                device.name(),
                cases.len() - failures.len(),
                cases.len()
            );
            assert!(
                failures.is_empty(),
                "on {}:\n{}",
                device.name(),
                failures.join("\n")
            );
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
