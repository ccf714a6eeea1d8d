//! The CUDA kernels, and what they are there for: that a comparison with them can fail, and what is said without a GPU.

mod host;

use host::{Host, Mutation};
use plateau::exec::{Executor, GpuOptions};
use plateau::plan::Dispatch;
use plateau_shaders::KERNELS;
use plateau_tests::cuda::faults::{Fault, plant, unwritten};
use plateau_tests::cuda::models::{self, Peer, Subject, Twins};
use plateau_tests::cuda::{Cuda, CudaError, SOURCES};
use plateau_tests::{Case, Check, cases, compare, device, run};
use std::collections::BTreeMap;

#[test]
fn every_kernel_has_a_cuda_function_of_its_name() {
    for kernel in KERNELS {
        let entry = format!("KERNEL({})", kernel.name);
        let texts = SOURCES.iter().map(|(_, text)| text.matches(&entry).count());
        assert_eq!(texts.sum::<usize>(), 1, "{entry} in tests/cuda/*.cu");
    }
}

fn what(case: &Case) -> String {
    format!("{} [{}]", case.kernel.name, case.name)
}

fn twin(case: &Case) -> Vec<Vec<u32>> {
    let ran = pollster::block_on(run::run(&mut Executor::twin(), case));
    ran.unwrap_or_else(|error| panic!("{}: {error}", what(case)))
}

/// The first output that differs by more than the case allows.
fn difference(case: &Case, found: &[Vec<u32>], expected: &[Vec<u32>]) -> Option<String> {
    let outputs = case.outputs.iter().enumerate();
    let mut judged =
        outputs.map(|(i, (_, check))| compare::compare(&found[i], &expected[i], check));
    judged.find_map(Result::err)
}

/// `PLATEAU_CASE=gemm_i4` runs only the cases whose kernel or name contains the word.
fn selected() -> Vec<Case> {
    let word = std::env::var("PLATEAU_CASE").unwrap_or_default();
    let mut cases = cases::all();
    cases.retain(|case| format!("{} {}", case.kernel.name, case.name).contains(&word));
    cases
}

#[test]
fn the_cuda_sources_as_cpp_equal_the_twins() {
    let Some(mut host) = Host::compile(None) else {
        return;
    };
    let (mut count, mut failures) = (0, Vec::new());
    for case in &selected() {
        count += 1;
        if let Some(message) = difference(case, &host.run(case), &twin(case)) {
            failures.push(format!("{}: {message}", what(case)));
        }
    }
    println!("{} of {count} cases agree", count - failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One change of the sources each, and the kernel whose cases are to notice it.
const MUTATIONS: &[(&str, Mutation)] = &[
    // A wrong nibble.
    (
        "gemm_i4",
        (
            "numbers.cu",
            "is_high = in_word / 4",
            "is_high = in_word % 2",
        ),
    ),
    ("gemv_i4", ("integer_linear.cu", "group % 8", "group % 4")),
    // What memory held of the step before.
    (
        "gemv_i8",
        (
            "integer_linear.cu",
            "int8_at(x_q, row * in_features + k)",
            "int8_at(x_q, row * in_features + (k < 32 ? k : k - 32))",
        ),
    ),
    // Tails.
    (
        "gemm_i8",
        (
            "integer_linear.cu",
            "k < in_features",
            "k + 1 < in_features",
        ),
    ),
    (
        "attention_decode_f16",
        (
            "attention.cu",
            "key <= last; key += 1) {\n    const double weight",
            "key < last; key += 1) {\n    const double weight",
        ),
    ),
    (
        "argmax_parts",
        (
            "sampling.cu",
            "j < p.vocab; j += 1",
            "j + 1 < p.vocab; j += 1",
        ),
    ),
    // Roundings.
    (
        "flatten_quantize",
        ("flatten_quantize.cu", "(int)rintf", "(int)roundf"),
    ),
    (
        "quantize_dynamic",
        (
            "quantize_dynamic.cu",
            "nextafterf(nearest, 0.0f)",
            "nearest",
        ),
    ),
    ("kv_append_f16", ("numbers.cu", "(u32)rint(", "(u32)floor(")),
    // Formulas.
    ("rope", ("attention.cu", "a * c - b * s", "a * c + b * s")),
    (
        "rms_norm",
        ("norms.cu", "sum / features", "sum / (features + 1)"),
    ),
    ("sample", ("sampling.cu", "(word >> 8)", "(word >> 9)")),
];

#[test]
fn mutations_of_the_cuda_sources_are_noticed() {
    let cases = cases::all();
    for &(kernel, mutation) in MUTATIONS {
        let Some(mut host) = Host::compile(Some(mutation)) else {
            return;
        };
        let mut of_kernel = cases.iter().filter(|case| case.kernel.name == kernel);
        let noticed =
            of_kernel.any(|case| difference(case, &host.run(case), &twin(case)).is_some());
        assert!(noticed, "no case of {kernel} notices {mutation:?}");
    }
}

/// Every fault, in the cases of every kernel that can have it: a comparison that would let it pass is no comparison.
#[test]
fn planted_faults_are_noticed() {
    let mut noticed: BTreeMap<&str, usize> = BTreeMap::new();
    for case in selected().iter().filter(|case| case.ops < 1 << 22) {
        let right = twin(case);
        for fault in Fault::ALL {
            let is_exact = matches!(case.outputs[0].1, Check::Exact);
            let wrong = match fault {
                Fault::Unwritten => {
                    let mut outputs = right.clone();
                    unwritten(case, &mut outputs).then_some(outputs)
                }
                Fault::Nibble | Fault::Stale | Fault::Tail if is_exact => {
                    plant(case, fault).map(|case| twin(&case))
                }
                Fault::Nibble | Fault::Stale | Fault::Tail => None,
            };
            let Some(wrong) = wrong else { continue };
            let message = difference(case, &wrong, &right);
            assert!(message.is_some(), "{}: {fault:?} passes", what(case));
            *noticed.entry(fault.name()).or_default() += 1;
        }
    }
    println!("{noticed:?}");
    assert!(noticed.len() == Fault::ALL.len() || std::env::var("PLATEAU_CASE").is_ok());
}

/// Either there is a GPU and all that it takes, or the message says what is missing; never a panic.
#[test]
fn what_is_missing_is_said() {
    match Cuda::open() {
        Ok(cuda) => println!("{}: compiled in {:?}", cuda.name(), cuda.compile_time()),
        Err(error @ CudaError::Missing { .. }) => {
            let line = error.to_string();
            assert!(line.contains(" was not found ("), "{line}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// The twins, of which one linear has some wrong words.
struct SpoiledTwins;

const SPOILED: &str = "layers.1.mlp.down_proj";

impl Peer for SpoiledTwins {
    type Words = <Twins as Peer>::Words;

    fn upload(&self, words: &[u32]) -> Result<Self::Words, CudaError> {
        Twins.upload(words)
    }

    fn download(&self, words: &Self::Words) -> Result<Vec<u32>, CudaError> {
        Twins.download(words)
    }

    fn launch(&self, dispatch: &Dispatch, bindings: &[&Self::Words]) -> Result<(), CudaError> {
        let mut bindings = bindings.to_vec();
        // Of integers a scale stands before the weights.
        let weights = if bindings.len() == 5 { 2 } else { 1 };
        let spoiled = bindings[weights].clone();
        if dispatch.label.contains(SPOILED) {
            let mut words = spoiled.borrow_mut();
            words
                .iter_mut()
                .take(16)
                .for_each(|word| *word ^= 0x7070_7070);
            bindings[weights] = &spoiled;
        }
        Twins.launch(dispatch, &bindings)
    }
}

/// The comparison of whole models, with the twins in CUDA's place: the models are those that are compared with CUDA, but for the
/// built-in one, which takes the twins a minute.
#[test]
fn whole_models_are_compared_dispatch_by_dispatch() {
    const PROMPT: usize = 12;
    const STEPS: usize = 2;
    let mut spoiled_once = false;
    pollster::block_on(async {
        for subject in Subject::ALL.iter().filter(|subject| !subject.is_builtin()) {
            let name = subject.name;
            let executor = device::devices(GpuOptions::default()).await.remove(0);
            let session = subject.load(executor).await;
            let mut session = session.unwrap_or_else(|error| panic!("{name}: {error}"));
            let prompt = subject.prompt(PROMPT);
            let found = models::check(&Twins, &mut session, subject, &prompt, STEPS).await;
            let report = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.tokens, STEPS, "{name}");
            if name == "block w4a8 g32" {
                let spoiled = SpoiledTwins;
                let found = models::check(&spoiled, &mut session, subject, &prompt, STEPS).await;
                let message = found.expect_err("some weights are wrong").to_string();
                assert!(message.contains(SPOILED), "{message}");
                spoiled_once = true;
            }
        }
    });
    assert!(spoiled_once);
}
