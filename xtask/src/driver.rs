//! A Vulkan driver for the tests: is there one, and if not, which package has a software one.
//!
//! Without a GPU crate this can only look at what the Vulkan loader would look at. Where it guesses wrong, the GPU tests
//! fail and say that there is no adapter; nothing is skipped.

use crate::{process, swiftshader};
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Words in the name of a software driver's manifest: Mesa's llvmpipe, SwiftShader.
const SOFTWARE: [&str; 3] = ["lvp", "llvmpipe", "swiftshader"];

/// Words in a manifest's name that say for which processor its library is.
const ARCHITECTURES: [&str; 5] = ["x86_64", "i686", "i386", "aarch64", "armv7"];

/// A system's package manager, and what installs Vulkan's loader and a software driver through it.
struct PackageManager {
    program: &'static str,
    commands: &'static [&'static [&'static str]],
}

const PACKAGE_MANAGERS: [PackageManager; 4] = [
    PackageManager {
        program: "apt-get",
        commands: &[
            &["apt-get", "update"],
            &[
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "mesa-vulkan-drivers",
                "libvulkan1",
            ],
        ],
    },
    PackageManager {
        program: "dnf",
        commands: &[&[
            "dnf",
            "install",
            "--assumeyes",
            "mesa-vulkan-drivers",
            "vulkan-loader",
        ]],
    },
    PackageManager {
        program: "pacman",
        commands: &[&[
            "pacman",
            "-S",
            "--needed",
            "--noconfirm",
            "vulkan-swrast",
            "vulkan-icd-loader",
        ]],
    },
    PackageManager {
        program: "zypper",
        commands: &[&[
            "zypper",
            "--non-interactive",
            "install",
            "libvulkan_lvp",
            "libvulkan1",
        ]],
    },
];

/// The drivers with which tests run, as a value of `VK_DRIVER_FILES`: `None` is those that the system has.
pub type Drivers = Option<OsString>;

/// The software driver of this machine and SwiftShader, if that is `wanted` and can be had. One line says what was done.
pub fn with_swiftshader(wanted: bool) -> Drivers {
    if !cfg!(target_os = "linux") {
        return None;
    }
    if !wanted {
        eprintln!(
            "SwiftShader, a second software driver, is left out; --swiftshader or CI=true adds it"
        );
        return None;
    }
    let software = match find() {
        Ok(Driver::Software(manifest)) if device_node().is_none() => manifest,
        _ => {
            eprintln!(
                "SwiftShader is left out: only a machine without a GPU gets a second software driver"
            );
            return None;
        }
    };
    if software.to_string_lossy().contains("swiftshader") {
        eprintln!("SwiftShader is left out: it is this machine's own driver");
        return None;
    }
    if !in_path("apt-get") {
        eprintln!(
            "SwiftShader is left out: it comes from a Debian package, and there is no apt-get here"
        );
        return None;
    }
    let joined = swiftshader::ensure_fetched().and_then(|second| {
        std::env::join_paths([&software, &second]).context("a path with the separator of paths")
    });
    match joined {
        Ok(drivers) => {
            eprintln!("tests run on: {}", drivers.to_string_lossy());
            Some(drivers)
        }
        Err(error) => {
            eprintln!("SwiftShader is left out: it could not be fetched: {error:#}");
            None
        }
    }
}

/// Makes sure that Linux has a Vulkan driver. Metal and DirectX come with their systems.
pub fn ensure_installed(yes: bool) -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("not needed on {}", std::env::consts::OS);
        return Ok(());
    }
    let missing = match find() {
        Ok(found) => {
            eprintln!("found: {found}");
            return Ok(());
        }
        Err(missing) => missing,
    };
    let Some(manager) = PACKAGE_MANAGERS
        .iter()
        .find(|manager| in_path(manager.program))
    else {
        bail!(
            "{missing}; install Mesa's Vulkan drivers (llvmpipe) and the Vulkan loader by this system's means"
        );
    };
    let sudo = !is_root();
    let commands: Vec<Vec<&str>> = manager
        .commands
        .iter()
        .map(|command| {
            if sudo {
                [&["sudo"], *command].concat()
            } else {
                command.to_vec()
            }
        })
        .collect();

    eprintln!("{missing}. A software driver serves the tests. To install it:");
    for command in &commands {
        eprintln!("    {}", command.join(" "));
    }
    if !yes && !confirmed()? {
        bail!("{missing}, and installing one was declined; run the commands above, or pass --yes");
    }
    for command in &commands {
        process::run(&mut process::program(command[0], &command[1..]))?;
    }
    match find() {
        Ok(found) => eprintln!("installed: {found}"),
        Err(missing) => bail!("the packages are installed, yet: {missing}"),
    }
    Ok(())
}

/// A driver that the loader would use.
enum Driver {
    /// Its manifest.
    Software(PathBuf),
    /// Its manifest, and the GPU's node.
    Gpu(PathBuf, PathBuf),
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Software(manifest) => write!(f, "the software driver of {}", manifest.display()),
            Self::Gpu(manifest, device) => {
                write!(f, "{}, for {}", manifest.display(), device.display())
            }
        }
    }
}

/// What the loader would use, or what is missing.
fn find() -> Result<Driver, String> {
    if !loader_present() {
        return Err("there is no Vulkan loader (libvulkan.so.1)".to_owned());
    }
    let device = device_node();
    let mut without_device = Vec::new();
    for manifest in manifests() {
        let name = manifest
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if !is_for(&name, std::env::consts::ARCH) {
            continue;
        }
        if SOFTWARE.iter().any(|word| name.contains(word)) {
            return Ok(Driver::Software(manifest));
        }
        match &device {
            Some(device) => return Ok(Driver::Gpu(manifest, device.clone())),
            None => without_device.push(name),
        }
    }
    Err(match without_device.as_slice() {
        [] => "there is no Vulkan driver".to_owned(),
        names => format!(
            "there are Vulkan drivers ({}) but no GPU for them",
            names.join(", ")
        ),
    })
}

/// Whether a manifest of that file name is for programs of `arch`: it says so, or says nothing.
fn is_for(name: &str, arch: &str) -> bool {
    name.contains(arch) || !ARCHITECTURES.iter().any(|word| name.contains(word))
}

/// The loader is opened at run time, by the dynamic linker's search.
fn loader_present() -> bool {
    let listed = ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .any(|ldconfig| {
            let output = process::program(ldconfig, &["-p"]).output();
            output.is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).contains("libvulkan.so.1")
            })
        });
    listed
        || env_paths("LD_LIBRARY_PATH")
            .iter()
            .any(|folder| folder.join("libvulkan.so.1").exists())
}

/// The driver manifests, in the order of the loader: named by variables, else all in the standard folders.
fn manifests() -> Vec<PathBuf> {
    let forced: Vec<PathBuf> = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .into_iter()
        .flat_map(env_paths)
        .collect();
    let places = if forced.is_empty() {
        standard_folders()
    } else {
        forced
    };
    let mut found = Vec::new();
    for place in places {
        if place.is_file() {
            found.push(place);
        } else if let Ok(entries) = std::fs::read_dir(&place) {
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            files.retain(|file| file.extension() == Some(OsStr::new("json")));
            files.sort();
            found.extend(files);
        }
    }
    found
}

fn standard_folders() -> Vec<PathBuf> {
    let home = |folder: &str| std::env::var_os("HOME").map(|home| Path::new(&home).join(folder));
    let or_default = |name: &str, default: &[&str]| {
        let paths = env_paths(name);
        if paths.is_empty() {
            default.iter().map(PathBuf::from).collect()
        } else {
            paths
        }
    };
    let mut bases = Vec::new();
    bases.extend(
        std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home(".config")),
    );
    bases.extend(or_default("XDG_CONFIG_DIRS", &["/etc/xdg"]));
    bases.push(PathBuf::from("/usr/local/etc"));
    bases.push(PathBuf::from("/etc"));
    bases.extend(
        std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| home(".local/share")),
    );
    bases.extend(or_default(
        "XDG_DATA_DIRS",
        &["/usr/local/share", "/usr/share"],
    ));
    bases
        .into_iter()
        .map(|base| base.join("vulkan/icd.d"))
        .collect()
}

fn env_paths(name: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(name).unwrap_or_default();
    std::env::split_paths(&value)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// A GPU that the kernel offers: a render node, NVIDIA's device, or Windows' one under WSL.
fn device_node() -> Option<PathBuf> {
    let nodes = std::fs::read_dir("/dev/dri")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    let render = nodes
        .into_iter()
        .find(|path| path.to_string_lossy().contains("renderD"));
    render.or_else(|| {
        ["/dev/nvidia0", "/dev/dxg"]
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
    })
}

fn in_path(program: &str) -> bool {
    env_paths("PATH")
        .iter()
        .any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    let output = process::program("id", &["-u"]).output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Asks on the terminal; without one nobody can say yes.
fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Install now? [y/N] ");
    std::io::stderr().flush().context("writing the question")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_another_processor_does_not_count() {
        assert!(is_for("lvp_icd.x86_64.json", "x86_64"));
        assert!(is_for("nvidia_icd.json", "x86_64"));
        assert!(!is_for("lvp_icd.i686.json", "x86_64"));
        assert!(!is_for("lvp_icd.x86_64.json", "aarch64"));
    }
}
