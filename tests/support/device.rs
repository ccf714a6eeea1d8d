//! The devices under test.

use plateau::exec::{Executor, GpuOptions, open_all};

/// Every adapter of this machine, opened as `options` say.
///
/// # Panics
/// Without any adapter: a GPU test that cannot run has failed. `cargo xtask test` installs a software driver.
pub async fn devices(options: GpuOptions) -> Vec<Executor> {
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
    devices(GpuOptions { portable: true }).await
}
