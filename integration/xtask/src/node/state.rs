//! What a node consists of while it is switched off: its flash, its UEFI variables, its snapshots.

use crate::command::{command, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The size of the disk through which files get in; sparse.
const OFFER_SIZE: u64 = 4 << 30;

/// What a node's flash starts as.
const FLASH: &str = "flash.raw";

/// A directory with `disk.qcow2`, `vars.qcow2`, `offer.raw` and `console.log`.
#[derive(Debug, Clone)]
pub struct NodeState {
    dir: PathBuf,
}

impl NodeState {
    /// A new node: its flash starts as `disk` (raw, never written to, must stay), its variables as `vars` (raw). Whatever
    /// `dir` held is removed.
    ///
    /// # Errors
    /// When `qemu-img` fails.
    pub fn create(dir: &Path, disk: &Path, vars: &Path) -> Result<Self> {
        let disk = fs::canonicalize(disk).with_context(|| format!("no disk {}", disk.display()))?;
        let state = Self::empty(dir)?;
        state.layer(&disk, vars)?;
        Ok(state)
    }

    /// A new node that keeps what its flash starts as beside it, so that its directory may be renamed. `make_flash` writes the raw
    /// disk at the path it is given.
    ///
    /// # Errors
    /// Those of `make_flash`, or when `qemu-img` fails.
    pub fn with_flash(
        dir: &Path,
        vars: &Path,
        make_flash: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let state = Self::empty(dir)?;
        make_flash(&dir.join(FLASH))?;
        // A relative name is looked up beside the layer.
        state.layer(Path::new(FLASH), vars)?;
        Ok(state)
    }

    /// All changes go to a layer above `flash`.
    fn layer(&self, flash: &Path, vars: &Path) -> Result<()> {
        run(command(
            "qemu-img",
            ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"],
        )
        .arg(flash)
        .arg(self.disk()))?;
        run(command("qemu-img", ["convert", "-f", "raw", "-O", "qcow2"])
            .arg(vars)
            .arg(self.vars()))?;
        Ok(())
    }

    /// A node that was made before.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        let state = Self {
            dir: dir.to_path_buf(),
        };
        for file in [state.disk(), state.vars()] {
            anyhow::ensure!(
                file.exists(),
                "no node in {}: {} is missing",
                dir.display(),
                file.display()
            );
        }
        Ok(state)
    }

    /// A copy with all snapshots, to be changed without disturbing this one, which must stay because the copy reads the flash's
    /// first contents from it. Not while this one runs.
    ///
    /// # Errors
    /// When the files cannot be copied.
    pub fn copy_to(&self, dir: &Path) -> Result<Self> {
        let copy = Self::empty(dir)?;
        for (from, to) in [(self.disk(), copy.disk()), (self.vars(), copy.vars())] {
            run(command("cp", ["--reflink=auto", "--sparse=always"])
                .arg(from)
                .arg(to))?;
        }
        let said = run(command("qemu-img", ["info", "--output=json"]).arg(self.disk()))?;
        let said: serde_json::Value = serde_json::from_slice(&said)?;
        let flash = said["full-backing-filename"]
            .as_str()
            .context("the node's disk is not a layer above its flash")?;
        run(command(
            "qemu-img",
            ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b"],
        )
        .arg(fs::canonicalize(flash)?)
        .arg(copy.disk()))?;
        Ok(copy)
    }

    fn empty(dir: &Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let state = Self {
            dir: dir.to_path_buf(),
        };
        fs::File::create(state.offer_disk())?.set_len(OFFER_SIZE)?;
        Ok(state)
    }

    /// Puts copies of `files` on the node's second disk, in the place of what was there. The node sees them under `/offer` after
    /// [`super::machine::Machine::mount_offer`].
    ///
    /// # Errors
    /// When they do not fit.
    pub fn offer(&self, files: &[&Path]) -> Result<()> {
        let tree = self.dir.join("offer");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        fs::create_dir(&tree)?;
        for file in files {
            let to = tree.join(file.file_name().context("a file has a name")?);
            if fs::hard_link(file, &to).is_err() {
                fs::copy(file, &to).with_context(|| format!("cannot offer {}", file.display()))?;
            }
        }
        // Into the same file: a running QEMU has it open.
        let offer = fs::OpenOptions::new().write(true).open(self.offer_disk())?;
        offer.set_len(0)?;
        offer.set_len(OFFER_SIZE)?;
        run(command(
            "mke2fs",
            [
                "-q",
                "-F",
                "-t",
                "ext4",
                "-O",
                "^has_journal",
                "-m",
                "0",
                "-d",
            ],
        )
        .arg(&tree)
        .arg(self.offer_disk()))?;
        fs::remove_dir_all(tree)?;
        Ok(())
    }

    /// The node's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node's flash.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// The firmware's variables.
    pub fn vars(&self) -> PathBuf {
        self.dir.join("vars.qcow2")
    }

    /// The second disk.
    pub fn offer_disk(&self) -> PathBuf {
        self.dir.join("offer.raw")
    }

    /// Everything the serial port said, over all boots.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }
}
