//! `cargo xtask wgsl NAME`: what the driver is given, with all parts of the kernel joined.

use anyhow::{Result, bail};
use plateau_shaders::{KERNELS, kernel};

pub fn run(name: &str) -> Result<()> {
    let Some(kernel) = kernel(name) else {
        let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("no kernel '{name}'; there are: {}", known.join(", "));
    };
    print!("{}", kernel.wgsl());
    Ok(())
}
