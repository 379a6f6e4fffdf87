//! Image files: opened only when they are what they should be, allocated, copied.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::ImageError;

/// Bytes copied at once; several of these are in memory at no time.
const COPY_STEP: usize = 1 << 20;

/// What an image file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// To be read.
    Read,
    /// To be read and written.
    Write,
}

/// Opens an image file that exists. The last component may not be a symbolic link, the file must be
/// a regular one, and it may have no second name through which somebody else might reach it.
///
/// # Errors
/// [`ImageError::Unusable`], or the kernel's.
pub fn open_regular(path: &Path, kind: FileKind) -> Result<File, ImageError> {
    let unusable = |reason| ImageError::Unusable {
        path: path.to_owned(),
        reason,
    };
    // NONBLOCK: a fifo there must not make us wait for a writer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .write(kind == FileKind::Write)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => unusable("it is a symbolic link"),
            _ => ImageError::io("open", path)(error),
        })?;
    let about = file.metadata().map_err(ImageError::io("look at", path))?;
    if !about.is_file() {
        return Err(unusable("it is not a regular file"));
    }
    if about.nlink() != 1 {
        return Err(unusable("it has a second hard link"));
    }
    Ok(file)
}

/// Gives the new, empty `file` all of its `bytes`, so that a full slot shows now and not later.
///
/// # Errors
/// The kernel's, `ENOSPC` above all.
pub fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), ImageError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => file
            .set_len(bytes)
            .map_err(ImageError::io("set the size of", path)),
        Err(error) => Err(ImageError::io("allocate", path)(error)),
    }
}

/// Copies the image `from` to the new, empty file `to`, which ends up at least `bytes` long: by
/// reference where the file system can share blocks, else data only, holes stay holes.
///
/// # Errors
/// The kernel's.
pub fn copy(from: &File, to: &File, path: &Path, bytes: u64) -> Result<(), ImageError> {
    let fail = |error: std::io::Error| ImageError::io("copy the active image to", path)(error);
    let size = from.metadata().map_err(fail)?.len();
    if rustix::fs::ioctl_ficlone(to, from).is_err() {
        copy_data(from, to, size).map_err(fail)?;
    }
    to.set_len(size.max(bytes)).map_err(fail)
}

fn copy_data(from: &File, to: &File, size: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; COPY_STEP];
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(size);
        at = data;
        while at < hole {
            let step = buffer
                .len()
                .min(usize::try_from(hole - at).unwrap_or(COPY_STEP));
            let got = from.read_at(&mut buffer[..step], at)?;
            if got == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..got], at)?;
            at += got as u64;
        }
        drop_behind(from, to, data, at - data);
    }
    Ok(())
}

/// Keeps the page cache small. Advice only: what is still dirty stays.
fn drop_behind(from: &File, to: &File, offset: u64, bytes: u64) {
    use rustix::fs::{Advice, fadvise};
    let bytes = std::num::NonZeroU64::new(bytes);
    for file in [from, to] {
        if let Err(error) = fadvise(file, offset, bytes, Advice::DontNeed) {
            tracing::debug!(%error, "the page cache keeps the image");
        }
    }
}
