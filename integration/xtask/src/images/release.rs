//! One release as directory trees, one per domain: what a vendor would hand to `xupg bundle create`.

use super::boot_image::BootImage;
use super::kernels::Kernel;
use super::{initramfs, roots};
use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use crate::keys::Keys;
use crate::paths;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The domains of the lab's node, dom0 first.
pub const DOMAINS: [&str; 3] = ["dom0", "web", "db"];

/// Everything that releases have in common.
#[derive(Debug, Clone)]
pub struct Parts {
    keys: Keys,
    dom0_kernel: Kernel,
    domu_kernel: Kernel,
    roots: [PathBuf; 3],
}

impl Parts {
    /// Makes the kernels and roots, or finds them.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn ensure(keys: &Keys) -> Result<Self> {
        let dom0_kernel = Kernel::dom0()?;
        let domu_kernel = Kernel::domu()?;
        let roots = [roots::dom0(&dom0_kernel)?, roots::web()?, roots::db()?];
        Ok(Self {
            keys: keys.clone(),
            dom0_kernel,
            domu_kernel,
            roots,
        })
    }
}

/// A file laid over a domain's root.
#[derive(Debug, Clone)]
struct Laid {
    domain: String,
    path: String,
    /// A file's bytes, or where a symbolic link leads to.
    bytes: Vec<u8>,
    mode: u32,
    link: bool,
}

/// What is particular to one release.
#[derive(Debug, Clone)]
pub struct Release {
    name: String,
    version: String,
    dom0_options: String,
    unsigned: bool,
    laid: Vec<Laid>,
}

impl Release {
    /// A good release. `name` tells it from others of the same version.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            dom0_options: String::new(),
            unsigned: false,
            laid: Vec::new(),
        }
    }

    /// What tells it from others of the same version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// dom0 panics before it has mounted anything.
    #[must_use]
    pub fn dom0_panics(mut self) -> Self {
        self.dom0_options.push_str("xupg.lab=panic");
        self
    }

    /// The boot image carries no signature.
    #[must_use]
    pub fn unsigned_boot_image(mut self) -> Self {
        self.unsigned = true;
        self
    }

    /// Lays a file over a domain's root; `path` is absolute inside of it. Directories are made as needed.
    #[must_use]
    pub fn with_file(
        mut self,
        domain: &str,
        path: &str,
        bytes: impl AsRef<[u8]>,
        mode: u32,
    ) -> Self {
        self.laid.push(Laid {
            domain: domain.to_owned(),
            path: path.trim_start_matches('/').to_owned(),
            bytes: bytes.as_ref().to_vec(),
            mode,
            link: false,
        });
        self
    }

    /// Lays a symbolic link over a domain's root.
    #[must_use]
    pub fn with_link(mut self, domain: &str, path: &str, to: &str) -> Self {
        self.laid.push(Laid {
            domain: domain.to_owned(),
            path: path.trim_start_matches('/').to_owned(),
            bytes: to.as_bytes().to_vec(),
            mode: 0o777,
            link: true,
        });
        self
    }

    /// Lays a file from the source tree or the build over a domain's root, see [`Release::with_file`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_copy(self, domain: &str, path: &str, from: &Path, mode: u32) -> Result<Self> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.with_file(domain, path, bytes, mode))
    }

    /// Makes the trees, or finds them: `<result>/dom0`, `<result>/web`, `<result>/db`.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn trees(&self, parts: &Parts) -> Result<PathBuf> {
        let mut key = Key::new()
            .with("release 1")
            .with(&self.version)
            .with(&self.dom0_options)
            .with([u8::from(self.unsigned)])
            .with(&parts.domu_kernel.version)
            .with_path(&parts.keys.ovmf_vars())?
            .with_path(&parts.keys.ssh())?
            .with_path(&paths::recipes().join("initramfs"))?
            .with(include_str!("boot_image.rs"))
            .with(include_str!("initramfs.rs"))
            .with(include_str!("release.rs"));
        for root in &parts.roots {
            // The cache names a root by what it was made from.
            key = key.with(root.as_os_str().as_encoded_bytes());
        }
        for laid in &self.laid {
            key = key
                .with(&laid.domain)
                .with(&laid.path)
                .with(&laid.bytes)
                .with(laid.mode.to_le_bytes());
        }
        get_or_make(&format!("release-{}", self.name), key, |dir| {
            self.make(parts, dir)
        })
    }

    fn make(&self, parts: &Parts, dir: &Path) -> Result<()> {
        for (domain, root) in DOMAINS.iter().zip(&parts.roots) {
            let tree = dir.join(domain);
            run(command("cp", ["-a", "--reflink=auto"]).arg(root).arg(&tree))?;
            lay(
                &tree,
                "usr/lib/xupg/release",
                format!("{}\n", self.version).as_bytes(),
                0o644,
            )?;
        }
        self.fill_dom0(parts, dir)?;
        for laid in &self.laid {
            let tree = dir.join(&laid.domain);
            if laid.link {
                link(&tree, &laid.path, &laid.bytes)?;
            } else {
                lay(&tree, &laid.path, &laid.bytes, laid.mode)?;
            }
        }
        Ok(())
    }

    /// dom0 carries what boots: its own image, the domUs' kernel; and the ssh key that lets the lab in.
    fn fill_dom0(&self, parts: &Parts, dir: &Path) -> Result<()> {
        let dom0 = dir.join("dom0");
        let public = parts.keys.ssh().with_extension("pub");
        lay(
            &dom0,
            "root/.ssh/authorized_keys",
            &fs::read(public)?,
            0o600,
        )?;
        let kernel = parts.domu_kernel.image();
        lay(
            &dom0,
            "usr/lib/xupg/domu/vmlinuz",
            &fs::read(kernel)?,
            0o644,
        )?;
        let domu = initramfs::domu(&parts.domu_kernel, dir)?;
        lay(&dom0, "usr/lib/xupg/domu/initrd", &domu, 0o644)?;

        let signer = parts.keys.secure_boot_db();
        let image = dom0.join("usr/lib/xupg/boot/xen.efi");
        fs::create_dir_all(dom0.join("usr/lib/xupg/boot"))?;
        BootImage {
            release: &self.version,
            kernel: parts.dom0_kernel.image(),
            initramfs: &initramfs::dom0(&parts.dom0_kernel, &self.version, dir)?,
            dom0_options: &self.dom0_options,
            signer: (!self.unsigned).then_some(&signer),
        }
        .write(dir, &image)
    }
}

fn link(tree: &Path, path: &str, target: &[u8]) -> Result<()> {
    let from = tree.join(path);
    let parent = from.parent().context("a link has a parent")?;
    fs::create_dir_all(parent)
        .and_then(|()| symlink(OsStr::from_bytes(target), &from))
        .with_context(|| format!("cannot link {path} in {}", tree.display()))
}

fn lay(tree: &Path, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let to = tree.join(path);
    let parent = to.parent().context("a file has a parent")?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&to, bytes))
        .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot lay {path} over {}", tree.display()))
}
