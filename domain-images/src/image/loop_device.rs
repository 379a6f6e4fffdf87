//! A loop device as a guard.
//!
//! `losetup` attaches it, because the ioctl would be the crate's only unsafe code. Right after that
//! the guard opens the device and asks for its removal: the kernel then removes it as soon as
//! nobody has it open or mounted. So not even a killed process leaves a loop device behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::run;
use super::{ImageError, MountOptions};

/// How long the kernel may take to remove a device that nobody uses any more.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// A part of a file, in bytes. Both are multiples of 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// How a file is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoopOptions {
    /// The part of the file that is the device; all of it if `None`.
    pub region: Option<Region>,
    /// Nothing can be written.
    pub read_only: bool,
    /// Blocks of 512 bytes instead of 4096: slower, but a file system that was made elsewhere may
    /// have smaller blocks than 4096 bytes, and cannot be mounted on larger ones.
    pub small_blocks: bool,
}

/// An attached loop device with direct I/O. Ends with [`LoopDevice::detach`].
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// Keeps the device attached; `None` once it is given back.
    open: Option<File>,
    backing: (u64, u64),
}

impl LoopDevice {
    /// Attaches `file`, or a region of it, to a free loop device. A disk counts as a file.
    ///
    /// # Errors
    /// `losetup` fails: no free device, or not root.
    pub fn attach(file: &Path, options: LoopOptions) -> Result<Self, ImageError> {
        let region = options.region;
        let about = fs::metadata(file).map_err(ImageError::io("look at", file))?;
        if !about.is_file() && !about.file_type().is_block_device() {
            return Err(ImageError::Unusable {
                path: file.to_owned(),
                reason: "it is neither a regular file nor a disk",
            });
        }
        // A disk has its size at its end only.
        let size = File::open(file)
            .and_then(|mut file| file.seek(SeekFrom::End(0)))
            .map_err(ImageError::io("measure", file))?;
        let aligned = region.map_or(size % 4096 == 0, |part| {
            part.offset % 4096 == 0
                && part.bytes % 4096 == 0
                && part
                    .offset
                    .checked_add(part.bytes)
                    .is_some_and(|end| end <= size)
        });
        if !aligned {
            return Err(ImageError::Unusable {
                path: file.to_owned(),
                reason: "its size or the region is not made of blocks of 4096 bytes inside it",
            });
        }
        let mut arguments: Vec<OsString> = ["--find", "--show", "--direct-io=on"]
            .map(OsString::from)
            .to_vec();
        let block = if options.small_blocks { 512 } else { 4096 };
        arguments.push(format!("--sector-size={block}").into());
        if let Some(part) = region {
            arguments.push(format!("--offset={}", part.offset).into());
            arguments.push(format!("--sizelimit={}", part.bytes).into());
        }
        if options.read_only {
            arguments.push("--read-only".into());
        }
        arguments.push("--".into());
        arguments.push(file.into());
        let mut name = run("losetup", arguments)?;
        while name.last().is_some_and(u8::is_ascii_whitespace) {
            name.pop();
        }
        let path = PathBuf::from(OsString::from_vec(name));
        let open = OpenOptions::new().read(true).open(&path);
        // While it is open this does not remove the device but has it removed at the last close.
        let released = run("losetup", [OsString::from("--detach"), path.clone().into()]);
        let open = open.map_err(ImageError::io("open", &path))?;
        released?;
        let device = Self {
            path,
            open: Some(open),
            backing: (about.dev(), about.ino()),
        };
        if !device.is_attached() {
            return Err(ImageError::Unusable {
                path: device.path.clone(),
                reason: "the loop device vanished while it was attached",
            });
        }
        Ok(device)
    }

    /// The block device, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts the device's ext4 file system; see [`super::MountGuard::mount`].
    ///
    /// # Errors
    /// As there.
    pub fn mount(
        &self,
        target: &Path,
        options: MountOptions,
    ) -> Result<super::MountGuard, ImageError> {
        super::MountGuard::mount(&self.path, target, options)
    }

    /// Gives the device back and waits until it is gone.
    ///
    /// # Errors
    /// [`ImageError::StillAttached`] when somebody else still uses it.
    pub fn detach(mut self) -> Result<(), ImageError> {
        self.release()
    }

    fn release(&mut self) -> Result<(), ImageError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        drop(open);
        let deadline = Instant::now() + DETACH_PATIENCE;
        while self.is_attached() {
            if Instant::now() > deadline {
                return Err(ImageError::StillAttached(self.path.clone()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Whether the device still stands for our file; another program may have it by now.
    fn is_attached(&self) -> bool {
        let Some(name) = self.path.file_name() else {
            return false;
        };
        let sysfs = Path::new("/sys/block").join(name).join("loop/backing_file");
        let Ok(backing) = fs::read(&sysfs) else {
            return false;
        };
        let backing = PathBuf::from(OsString::from_vec(backing.trim_ascii_end().to_vec()));
        match fs::metadata(&backing) {
            Ok(about) => (about.dev(), about.ino()) == self.backing,
            // Our file was removed or renamed; the device may still hold it.
            Err(_) => true,
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::error!(%error, "a loop device stays behind");
        }
    }
}
