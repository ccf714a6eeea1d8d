//! The devices under test.

use plateau::exec::{Executor, GpuOptions, open_all};
use std::io::Write;

/// Every adapter of this machine, opened as `options` say; with fused dispatches, which a software driver would not get by itself.
///
/// # Panics
/// Without any adapter: a GPU test that cannot run has failed. `cargo xtask test` installs a software driver.
pub async fn devices(options: GpuOptions) -> Vec<Executor> {
    let options = GpuOptions {
        always_fuse: true,
        ..options
    };
    let opened = open_all(options).await;
    assert!(
        !opened.is_empty(),
        "no GPU adapter: run 'cargo xtask test', which installs a software Vulkan driver"
    );
    opened
        .into_iter()
        .map(|result| Executor::Gpu(Box::new(result.unwrap_or_else(|error| panic!("{error}")))))
        .collect()
}

/// As [`devices`], under WebGPU's default limits and without optional features.
pub async fn portable_devices() -> Vec<Executor> {
    devices(GpuOptions::PORTABLE).await
}

/// How much of a test a device is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    Whole,
    /// What shows a driver's bugs, in minutes. Kernels are always tested whole: it is whole models that get fewer.
    Reduced,
}

/// [`Effort::Reduced`] for a software driver that is not the first adapter: `cargo xtask test` brings SwiftShader as a
/// second one, which takes ten times as long as llvmpipe.
pub fn effort(executor: &Executor) -> Effort {
    match executor.adapter() {
        Some(adapter) if adapter.index > 0 && adapter.kind == "software" => Effort::Reduced,
        Some(_) | None => Effort::Whole,
    }
}

/// The twins and every adapter as [`portable_devices`], for case number `case` of a test on whole models: those of
/// [`Effort::Reduced`] get the first case only, which is said once.
pub async fn for_case(case: usize) -> Vec<Executor> {
    let mut executors = vec![Executor::twin()];
    for executor in portable_devices().await {
        if effort(&executor) == Effort::Whole || case == 0 {
            executors.push(executor);
        } else if case == 1 {
            say_left_out(executor.name(), "all cases but the first");
        }
    }
    executors
}

/// Says what a test leaves out on a device (of [`Effort::Reduced`], say), even where the harness hides what a test prints.
pub fn say_left_out(executor: &str, what: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A closed stderr must not fail a test.
    let _ = writeln!(std::io::stderr(), "{test}: left out on {executor}: {what}");
}
