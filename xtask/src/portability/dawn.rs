//! Dawn, Chromium's WebGPU: another reader of WGSL, another validator, another writer of SPIR-V. Its package for Node runs here.

use super::tree::{Part, quietly};
use super::{Call, Found, Implementation, Kind, cached, rows, text};
use crate::{process, swiftshader};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// npm's name of Dawn for Node. It has the compilers of DirectX too.
const PACKAGE: &str = "webgpu@0.6.2";
const RUNNER: &str = "xtask/src/portability/dawn.mjs";

pub fn implementations() -> Vec<Implementation> {
    let on = |name: &str, fast, manifest: fn() -> Result<PathBuf>| Implementation {
        name: name.to_owned(),
        kind: Kind::Executed,
        fast,
        run: Box::new(move |call| execute(call, &manifest()?)),
    };
    vec![
        on("dawn-lavapipe-26", true, || {
            Ok(PathBuf::from("/usr/share/vulkan/icd.d/lvp_icd.json"))
        }),
        on("dawn-swiftshader", false, swiftshader::ensure_fetched),
    ]
}

/// The package's folder. Nothing of it is run while it is installed.
pub fn package(folder: &Path) -> Result<PathBuf> {
    let made = cached(folder, "npm", |fresh| {
        let mut command = Command::new("npm");
        command
            .args(["install", "--ignore-scripts", "--no-save", "--prefix"])
            .arg(fresh)
            .arg(PACKAGE);
        quietly(&mut command)
    })?;
    Ok(made.join("node_modules/webgpu"))
}

fn execute(call: &Call<'_>, manifest: &Path) -> Result<Found> {
    call.tree.ensure(&[Part::Vulkan, Part::Node])?;
    let package = package(call.folder)?.join("index.js");
    let mut words = call.program("elsewhere")?;
    words.push("node".to_owned());
    words.push(text(&process::root().join(RUNNER))?);
    words.push(text(&package)?);
    // Dawn's loader knows the older name of the variable alone.
    let mut command = call.in_tree(&words);
    command.env("VK_ICD_FILENAMES", manifest);
    rows(&mut command, |_, _| {})
}
