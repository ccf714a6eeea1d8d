//! SwiftShader as a second software Vulkan driver: what Mesa's llvmpipe lets pass, another driver may not.
//!
//! Debian's package of Chromium's common files has it. Two files of it are kept; nothing is installed, and no browser runs.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "chromium-common";
const IN_PACKAGE: &str = "usr/lib/chromium";
const MANIFEST: &str = "vk_swiftshader_icd.json";
/// The manifest names it, relative to itself.
const LIBRARY: &str = "libvk_swiftshader.so";

/// The manifest of the driver, which is fetched and unpacked the first time.
pub fn ensure_fetched() -> Result<PathBuf> {
    let folder = process::target_dir().join("swiftshader");
    let manifest = folder.join(MANIFEST);
    if !(manifest.is_file() && folder.join(LIBRARY).is_file()) {
        // Beside it, so that renames put the files in place: what is there is whole.
        let fresh = process::target_dir().join("swiftshader-fresh");
        remove(&fresh)?;
        let fetched = fetch(&fresh, &folder);
        remove(&fresh)?;
        fetched?;
    }
    Ok(manifest)
}

fn fetch(fresh: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(fresh).with_context(|| format!("making {}", fresh.display()))?;
    if let Err(error) = download(fresh) {
        // No list of packages, or an old one. Who may not make a new one is told the first error.
        match quietly(Command::new("apt-get").arg("update")) {
            Ok(()) => download(fresh)?,
            Err(_) => return Err(error),
        }
    }
    let unpacked = fresh.join("unpacked");
    quietly(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([package_file(fresh)?, unpacked.clone()]),
    )?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for file in [LIBRARY, MANIFEST] {
        let from = unpacked.join(IN_PACKAGE).join(file);
        fs::rename(&from, folder.join(file))
            .with_context(|| format!("{PACKAGE} has no {IN_PACKAGE}/{file}"))?;
    }
    Ok(())
}

/// Into `folder`, checked by apt against its signed lists.
fn download(folder: &Path) -> Result<()> {
    quietly(
        Command::new("apt-get")
            .args(["download", PACKAGE])
            .current_dir(folder),
    )
}

fn package_file(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get left no package in {}", folder.display())
}

/// Runs a program whose output matters only where it fails: then its last line is in the error.
fn quietly(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program}: {}",
            text.lines().last().unwrap_or("failed, and says nothing")
        );
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
