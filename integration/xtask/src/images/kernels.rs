//! Debian's kernels, unpacked but not installed: the full one for dom0, the cloud one for domUs.

use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    dir: PathBuf,
    /// As `uname -r` says it.
    pub version: String,
}

impl Kernel {
    /// The kernel that can be dom0 (`XEN_DOM0=y`).
    ///
    /// # Errors
    /// When apt cannot fetch it.
    pub fn dom0() -> Result<Self> {
        Self::fetch("linux-image-amd64")
    }

    /// A smaller kernel that cannot be dom0 but is a good PV or PVH guest.
    ///
    /// # Errors
    /// When apt cannot fetch it.
    pub fn domu() -> Result<Self> {
        Self::fetch("linux-image-cloud-amd64")
    }

    fn fetch(metapackage: &str) -> Result<Self> {
        let key = Key::new().with("kernel 1").with(metapackage);
        let dir = get_or_make(metapackage, key, |dir| unpack(metapackage, dir))?;
        let modules = dir.join("lib/modules");
        let version = only_entry(&modules)?;
        Ok(Self { dir, version })
    }

    /// The bzImage.
    pub fn image(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The root of the unpacked package; `lib/modules` is in it.
    pub fn root(&self) -> &Path {
        &self.dir
    }

    /// Files of these modules and of all that they need, in the order to load them. Built-in ones are left out.
    ///
    /// # Errors
    /// When there is no such module.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in names {
            let mut modprobe = command("modprobe", ["--show-depends", "--ignore-install"]);
            modprobe.arg("--dirname").arg(&self.dir);
            modprobe.args(["--set-version", &self.version, name]);
            let said = String::from_utf8(run(&mut modprobe)?)?;
            for line in said.lines() {
                if let Some(file) = line.strip_prefix("insmod ") {
                    let file = PathBuf::from(file.trim());
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
        }
        Ok(files)
    }
}

fn unpack(metapackage: &str, dir: &Path) -> Result<()> {
    let depends = run(&mut command(
        "apt-cache",
        ["depends", "--important", metapackage],
    ))?;
    let depends = String::from_utf8(depends)?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("apt does not know {metapackage}; try apt-get update"))?;
    let package = format!("linux-image-{package}");
    run(command("apt-get", ["download", &package]).current_dir(dir))?;
    let mut deb = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            deb = Some(path);
        }
    }
    let Some(deb) = deb else {
        bail!(
            "apt-get download {package} left no package in {}",
            dir.display()
        );
    };
    run(command("dpkg-deb", ["-x"]).arg(&deb).arg(dir))?;
    fs::remove_file(deb)?;
    let version = only_entry(&dir.join("lib/modules"))?;
    run(command("depmod", ["--basedir"]).arg(dir).arg(version))?;
    Ok(())
}

fn only_entry(dir: &Path) -> Result<String> {
    let entry = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .next()
        .with_context(|| format!("{} is empty", dir.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}
