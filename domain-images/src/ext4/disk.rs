//! The bytes that a file system lies on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use crate::image::Region;

/// A block device, an image file, or a part of one.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Through the page cache, which puts small pieces together: metadata.
    cached: File,
    /// Past it: content. `None` where that is not possible.
    direct: Option<File>,
    /// Where in the file the file system begins.
    offset: u64,
}

impl Disk {
    /// Opens `path`, or a region of it, which must not be mounted or attached meanwhile.
    pub(crate) fn open(path: &Path, region: Option<Region>) -> io::Result<Self> {
        let open = |flags: OFlags| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)
        };
        Ok(Self {
            cached: open(OFlags::empty())?,
            direct: open(OFlags::DIRECT).ok(),
            offset: region.map_or(0, |region| region.offset),
        })
    }

    /// Reads metadata.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.cached.read_exact_at(bytes, self.offset + at)
    }

    /// Writes metadata.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.cached.write_all_at(bytes, self.offset + at)
    }

    /// Writes whole blocks of content, from memory that begins where a block may begin.
    pub(super) fn write_blocks(&self, at: u64, blocks: &[u8]) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            match direct.write_all_at(blocks, self.offset + at) {
                // The device wants memory aligned in another way.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                done => return done,
            }
        }
        self.write(at, blocks)
    }

    /// Waits until everything is on the disk, and drops it from the page cache: who reads it next
    /// gets it from there.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.cached.sync_all()?;
        if let Err(error) = rustix::fs::fadvise(&self.cached, 0, None, Advice::DontNeed) {
            tracing::debug!(%error, "the page cache keeps an image");
        }
        Ok(())
    }
}
