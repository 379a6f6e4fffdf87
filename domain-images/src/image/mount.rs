//! A mounted ext4 file system as a guard.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::ImageError;

/// How long others, such as a program that looks for new file systems, may keep a mount busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// How a file system is mounted. Always with `noatime` and `errors=remount-ro`, and as ext4: the
/// type is named, never guessed from what the image holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing is written, and the journal is not replayed.
    pub read_only: bool,
    /// Programs may run from it, with their set-user-id bits, and devices work: for dom0's own new
    /// root, in which its hook runs. Everything else is mounted `nosuid,nodev,noexec`.
    pub trusted: bool,
    /// Leaves the journal alone while a copy of a guest's file system is changed. A crash then costs
    /// the copy, which nobody has used yet.
    pub without_journal: bool,
}

/// A mount that ends with the guard. End it with [`MountGuard::unmount`], which says what went
/// wrong; dropping it logs that and detaches the mount lazily.
#[derive(Debug)]
pub struct MountGuard {
    target: PathBuf,
    mounted: bool,
}

impl MountGuard {
    /// Mounts the ext4 file system on the block device `device` at the directory `target`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(device: &Path, target: &Path, options: MountOptions) -> Result<Self, ImageError> {
        let mut flags = MountFlags::NOATIME;
        if options.read_only {
            flags |= MountFlags::RDONLY;
        }
        if !options.trusted {
            flags |= MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        }
        let mut data = String::from("errors=remount-ro,noinit_itable");
        if options.without_journal || options.read_only {
            data.push_str(",noload");
        }
        if options.without_journal {
            // Blocks are not marked as unwritten first and as written later: that is for crashes.
            data.push_str(",dioread_lock");
        }
        let data = CString::new(data).unwrap_or_default();
        rustix::mount::mount(device, target, c"ext4", flags, data.as_c_str())
            .map_err(ImageError::io("mount", device))?;
        Ok(Self {
            target: target.to_owned(),
            mounted: true,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Unmounts; everything written is then on the device.
    ///
    /// # Errors
    /// The kernel's; after some seconds of patience also `EBUSY`.
    pub fn unmount(mut self) -> Result<(), ImageError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ImageError> {
        if !self.mounted {
            return Ok(());
        }
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            match rustix::mount::unmount(&self.target, UnmountFlags::NOFOLLOW) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(ImageError::io("unmount", &self.target)(error)),
            }
        }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "unmounting lazily");
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            if let Err(error) = rustix::mount::unmount(&self.target, flags) {
                tracing::error!(target = %self.target.display(), %error, "a mount stays behind");
            }
        }
    }
}
