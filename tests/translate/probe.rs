//! The checks themselves, on a kernel that is made to fail them: a check that finds nothing is an opinion.

use crate::pipelines::{Pipeline, pipeline, validated};
use crate::{reflect, targets};
use plateau_shaders::{Access, Constant, Kernel};
use targets::{Target, Text};

const SOURCE: &str = "
override WORDS: u32 = 64;
struct Params { rows: u32, scale: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<i32>;
var<workgroup> tile: array<u32, WORDS>;
@compute @workgroup_size(WORDS)
fn probe(@builtin(local_invocation_index) lane: u32) {
  tile[lane] = pack2x16float(unpack2x16float(x[lane])) + params.rows;
  workgroupBarrier();
  y[lane] = dot4I8Packed(tile[lane], x[lane]) * i32(params.scale);
}
";

const PROBE: Kernel = Kernel {
    name: "probe",
    source: &[SOURCE],
    bindings: &[Access::Read, Access::ReadWrite],
    params_bytes: 8,
    subgroups: false,
    run: |_| (),
};

fn with(constants: &[Constant]) -> Pipeline {
    pipeline(&PROBE, constants.to_vec()).expect("the probe is a good kernel")
}

#[test]
fn a_rust_side_that_differs_is_found() {
    let interface = |kernel: &Kernel| {
        let (module, _) = validated(&PROBE).expect("the probe is a good kernel");
        reflect::interface(kernel, &module).len()
    };
    assert_eq!(interface(&PROBE), 0);
    assert_eq!(
        interface(&Kernel {
            name: "other",
            ..PROBE
        }),
        1
    );
    assert_eq!(
        interface(&Kernel {
            bindings: &[Access::Read, Access::Read],
            ..PROBE
        }),
        1
    );
    assert_eq!(
        interface(&Kernel {
            params_bytes: 12,
            ..PROBE
        }),
        1
    );
}

#[test]
fn limits_are_judged_with_the_constants_of_the_pipeline() {
    let over = |words: u32| {
        let pipeline = with(&[("WORDS", words)]);
        reflect::limits(&pipeline.module, &pipeline.info)
    };
    assert_eq!(over(256), [""; 0]);
    assert_eq!(over(512).len(), 1, "too many invocations");
    assert_eq!(over(8192).len(), 2, "and too much workgroup memory");
    assert!(
        pipeline(&PROBE, vec![("WORD", 64)]).is_err(),
        "a constant that the text does not have"
    );
}

#[test]
fn features_beyond_core_are_refused() {
    for line in [
        "enable f16;\nvar<private> h: f16;",
        "fn s() -> u32 { return subgroupAdd(1u); }",
    ] {
        let source: &'static str = Box::leak(format!("{line}\n{SOURCE}").into_boxed_str());
        let source: &'static [&'static str] = Box::leak(Box::new([source]));
        assert!(validated(&Kernel { source, ..PROBE }).is_err(), "{line}");
    }
}

#[test]
fn the_dot_product_is_found_only_where_the_target_has_it() {
    let pipeline = with(&[]);
    let has = |target| match targets::translate(&pipeline.module, &pipeline.info, "probe", target) {
        Ok(Text::Source(text)) => text.contains("dot4add_i8packed"),
        Ok(Text::Words(words)) => targets::has_instruction(&words, targets::OP_S_DOT),
        Err(error) => panic!("{target:?}: {error}"),
    };
    let found: Vec<Target> = Target::ALL
        .into_iter()
        .filter(|&target| has(target))
        .collect();
    assert_eq!(found, [Target::SpirvDotProduct, Target::Hlsl64]);
}
