//! How much is in a slot: so that no tool is fast because it has left something out.

use crate::command::{command, run};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Names, and one for each root.
    pub(super) entries: u64,
    /// Bytes of all regular files by name.
    pub(super) bytes: u64,
}

/// Counts what is in `slots` and in the domUs' images in them.
///
/// # Errors
/// When one cannot be mounted or read.
pub(super) fn of(slots: &[PathBuf], mountpoint: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    for slot in slots {
        let mounted = Mounted::read_only(slot, mountpoint)?;
        tally.entries += 1;
        count(mountpoint, mountpoint, &mut tally)?;
        let images = mountpoint.join("var/lib/xupg/images");
        if images.exists() {
            let inner = mountpoint.with_extension("image");
            fs::create_dir_all(&inner)?;
            for image in fs::read_dir(images)? {
                let mounted = Mounted::read_only(&image?.path(), &inner)?;
                tally.entries += 1;
                count(&inner, &inner, &mut tally)?;
                mounted.unmount()?;
            }
        }
        mounted.unmount()?;
    }
    Ok(tally)
}

fn count(root: &Path, folder: &Path, tally: &mut Tally) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        // The file system's own, and what a release's slot knows about itself.
        let inside = path.strip_prefix(root)?;
        if inside == Path::new("lost+found") || inside == Path::new("var/lib/xupg") {
            continue;
        }
        let about = fs::symlink_metadata(&path)?;
        tally.entries += 1;
        if about.is_dir() {
            count(root, &path, tally)?;
        } else if about.is_file() {
            tally.bytes += about.size();
        }
    }
    Ok(())
}

/// A file's file system while it is mounted.
struct Mounted<'a>(Option<&'a Path>);

impl<'a> Mounted<'a> {
    fn read_only(file: &Path, at: &'a Path) -> Result<Self> {
        run(command("mount", ["-o", "ro,loop"]).arg(file).arg(at))?;
        Ok(Self(Some(at)))
    }

    fn unmount(mut self) -> Result<()> {
        match self.0.take() {
            Some(at) => run(&mut command("umount", [at])).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.0.take() {
            // An error is on its way already.
            let _ = run(&mut command("umount", [at]));
        }
    }
}
