//! A Debian 13 of our own in a folder: newer drivers, compilers and Wine than the system's, without touching the system.
//!
//! It is made by `debootstrap` and filled by its own `apt-get`, part by part. Programs enter it in a mount namespace, so that nothing
//! stays mounted, with the target folder and the workspace where they are outside.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";
/// Of the backports: the first with cooperative matrices in llvmpipe.
const MESA: &str = "26.1.6-1~bpo13+1";
/// Of [`Part::NewShims`], in the tree.
pub const NEW_SHIMS: &str = "/opt/shims/usr/lib/x86_64-linux-gnu";

/// What a tree has beyond the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Mesa's drivers and shims, the validation layer, spirv-val.
    Vulkan,
    /// Mesa's stand-in for an Intel GPU, which Debian does not package: built from Mesa's source.
    IntelShim,
    /// Mesa's shims of Debian's unstable, at [`NEW_SHIMS`]: for chips that those of this Mesa do not know. Whatever version is there: unstable
    /// keeps no old ones, and a shim only answers what chip it is.
    NewShims,
    Node,
    /// Wine, a cross compiler, an X server without a screen.
    Wine,
    Clang,
}

impl Part {
    /// A shell script that adds it, run in the tree.
    fn script(self) -> String {
        let install = "apt-get install --yes --no-install-recommends";
        match self {
            Self::Vulkan => format!(
                "echo 'deb {MIRROR} {SUITE}-backports main' > /etc/apt/sources.list.d/backports.list
                apt-get update
                {install} mesa-vulkan-drivers={MESA} mesa-drm-shim={MESA} libvulkan1 spirv-tools vulkan-validationlayers"
            ),
            Self::IntelShim => format!(
                "{install} meson ninja-build python3-mako python3-yaml python3-packaging bison flex libdrm-dev libexpat1-dev \
                zlib1g-dev pkgconf gcc g++ libc6-dev xz-utils
                echo 'deb-src {MIRROR} {SUITE} main' > /etc/apt/sources.list.d/source.list
                apt-get update
                mkdir -p /opt/mesa && cd /opt/mesa
                apt-get source --download-only --target-release {SUITE} mesa
                tar xf mesa_*.orig.tar.xz && cd mesa-*/
                meson setup b -Dtools=intel,drm-shim -Dvulkan-drivers= -Dgallium-drivers= -Dplatforms= -Dopengl=false \
                -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dllvm=disabled -Dgallium-va=disabled -Dvideo-codecs= \
                -Dbuildtype=release -Dintel-elk=false -Dzstd=disabled -Dvalgrind=disabled -Dlibunwind=disabled \
                -Dlmsensors=disabled
                ninja -C b src/intel/tools/libintel_noop_drm_shim.so
                cp b/src/intel/tools/libintel_noop_drm_shim.so /usr/lib/x86_64-linux-gnu/
                cd / && rm -r /opt/mesa"
            ),
            // With lists of its own, so that nothing else comes from there.
            Self::NewShims => format!(
                "mkdir -p /opt/shims/lists/partial && cd /opt/shims
                echo 'deb {MIRROR} sid main' > sources.list
                set -- -o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::State::Lists=$PWD/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
                apt-get \"$@\" update
                apt-get \"$@\" download mesa-drm-shim/sid
                dpkg-deb --extract mesa-drm-shim_*.deb .
                rm -r lists"
            ),
            Self::Node => format!("{install} nodejs"),
            Self::Wine => format!(
                "{install} wine wine64 gcc-mingw-w64-x86-64 xvfb libgl1 libglx-mesa0 libgl1-mesa-dri libegl1"
            ),
            Self::Clang => format!("{install} clang libglm-dev"),
        }
    }
}

pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// In `folder`, with nothing made yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            root: folder.join("tree"),
        }
    }

    /// Makes sure of the base and `parts`; what was made before is kept.
    pub fn ensure(&self, parts: &[Part]) -> Result<()> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!("the Debian tree is made on x86-64 Linux only");
        }
        let id = process::program("id", &["-u"]).output();
        if id.context("id could not be started")?.stdout.trim_ascii() != b"0" {
            bail!("a Debian tree is made and entered by root only");
        }
        let made = self.root.join("made");
        if !made.join("Base").is_file() {
            if self.root.exists() {
                // Whatever a broken run left.
                fs::remove_dir_all(&self.root)
                    .with_context(|| format!("removing {}", self.root.display()))?;
            }
            let mut command = Command::new("debootstrap");
            command
                .args(["--variant=minbase", SUITE])
                .arg(&self.root)
                .arg(MIRROR);
            quietly(&mut command).context("debootstrap, of the package of that name")?;
            // The clocks of build machines are not always right; signatures are checked all the same.
            let config = self.root.join("etc/apt/apt.conf.d/dates");
            fs::write(&config, "Acquire::Check-Valid-Until \"false\";\n")?;
            fs::create_dir_all(&made)?;
            fs::write(made.join("Base"), "")?;
        }
        for part in parts {
            let mark = made.join(format!("{part:?}"));
            if !mark.is_file() {
                let script = format!(
                    "set -e\nexport DEBIAN_FRONTEND=noninteractive\n{}",
                    part.script()
                );
                quietly(&mut self.command("sh", &["-c", &script]))
                    .with_context(|| format!("adding {part:?} to the tree"))?;
                fs::write(mark, "")?;
            }
        }
        Ok(())
    }

    /// A program of the tree, in it. The workspace and the target folder have their own paths there.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        const ENTER: &str = "for d in /proc /sys /dev; do mount --rbind $d \"$0$d\"; done
            for d in \"$1\" \"$2\"; do mkdir -p \"$0$d\"; mount --bind \"$d\" \"$0$d\"; done
            root=$0; shift 2; exec chroot \"$root\" \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", ENTER])
            .arg(&self.root)
            .arg(process::root())
            .arg(process::target_dir())
            .arg(program)
            .args(args);
        command
    }
}

/// Runs a program; where it fails, the end of what it printed is in the error.
pub fn quietly(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        bail!(
            "{program}: {}",
            lines[lines.len().saturating_sub(3)..].join("; ")
        );
    }
    Ok(())
}
