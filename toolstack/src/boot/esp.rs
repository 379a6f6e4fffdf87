//! The signed boot images on the EFI system partition.
//!
//! FAT has no journal: a file is written under a temporary name, flushed, read back and renamed,
//! and a slot without its `xen.efi` is a slot that cannot boot.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{OrFailed, Result};
use crate::slot::Slot;

/// Where a release carries its boot image.
pub const IMAGE_IN_ROOT: &str = "usr/lib/xupg/boot/xen.efi";

/// The mounted ESP.
#[derive(Debug, Clone)]
pub struct Esp {
    mountpoint: PathBuf,
}

impl Esp {
    /// The ESP mounted at `mountpoint`.
    pub fn mounted_at(mountpoint: PathBuf) -> Self {
        Self { mountpoint }
    }

    fn image(&self, slot: Slot) -> PathBuf {
        self.mountpoint
            .join("EFI/xupg")
            .join(slot.letter())
            .join("xen.efi")
    }

    /// Whether `slot` has a boot image.
    pub fn has_image(&self, slot: Slot) -> bool {
        self.image(slot).exists()
    }

    /// Removes `slot`'s boot image, if there is one.
    ///
    /// # Errors
    /// Where it cannot be removed, or the removal not be made durable.
    pub fn remove_image(&self, slot: Slot) -> Result<()> {
        let image = self.image(slot);
        match fs::remove_file(&image) {
            Ok(()) => sync_parent(&image),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .or_failed(|| format!("removing {}", image.display()))
    }

    /// Copies the boot image of the release under `root` to `slot`'s place.
    ///
    /// # Errors
    /// Where the release has none, or the copy does not read back.
    pub fn install_image(&self, slot: Slot, root: &Path) -> Result<()> {
        let from = root.join(IMAGE_IN_ROOT);
        let bytes =
            fs::read(&from).or_failed(|| format!("reading the boot image {}", from.display()))?;
        let to = self.image(slot);
        write_image(&to, &bytes).or_failed(|| format!("writing {}", to.display()))
    }

    /// Makes `slot`'s image the one that a firmware without boot entries finds
    /// (`EFI/BOOT/BOOTX64.EFI`), unless it is that already.
    ///
    /// # Errors
    /// Where it cannot be copied.
    pub fn set_removable(&self, slot: Slot) -> Result<()> {
        let from = self.image(slot);
        let bytes = fs::read(&from).or_failed(|| format!("reading {}", from.display()))?;
        let to = self.mountpoint.join("EFI/BOOT/BOOTX64.EFI");
        if fs::read(&to).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        write_image(&to, &bytes).or_failed(|| format!("writing {}", to.display()))
    }
}

fn write_image(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary = to.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    drop(file);
    if fs::read(&temporary)? != bytes {
        return Err(std::io::Error::other("what was written does not read back"));
    }
    fs::rename(&temporary, to)?;
    sync_parent(to)
}

/// Makes a name durable. vfat takes fsync of a directory; syncfs covers its tables as well.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    directory.sync_all()?;
    Ok(rustix::fs::syncfs(&directory)?)
}
