//! The bytes that a file system lies on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::BLOCK;
use crate::image::Region;

/// A block device, an image file, or a part of one.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Through the page cache: what is read, and what is written last.
    cached: File,
    /// Past it: content, and metadata that come with it. `None` where that is not possible.
    direct: Option<File>,
    /// Where in the file the file system begins.
    offset: u64,
    /// Blocks of metadata that are complete, and written when somebody has time for it.
    ready: Mutex<Vec<Block>>,
}

/// A block and its number.
pub(super) type Block = (u64, Box<[u8; BLOCK]>);

/// Complete blocks that are worth writing.
const WORTH_WRITING: usize = 64;
/// Complete blocks that are kept at most.
const READY: usize = 512;

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
            ready: Mutex::default(),
        })
    }

    /// Reads metadata.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.cached.read_exact_at(bytes, self.offset + at)
    }

    /// Has a block of metadata written later, by whoever calls [`Disk::ready`]: writing waits for
    /// content that is on its way into the same file, and whoever gives entries their places must
    /// not wait.
    pub(super) fn later(&self, block: u64, bytes: Box<[u8; BLOCK]>) -> io::Result<()> {
        let mut ready = self.lock();
        ready.push((block, bytes));
        if ready.len() < READY {
            return Ok(());
        }
        let all = std::mem::take(&mut *ready);
        drop(ready);
        all.iter()
            .try_for_each(|(block, bytes)| self.write(block * BLOCK as u64, &bytes[..]))
    }

    /// The complete blocks, if it is worth it or if `all` are asked for. Whoever takes them writes
    /// them.
    pub(super) fn ready(&self, all: bool) -> Vec<Block> {
        let mut ready = self.lock();
        let mut taken = Vec::new();
        if all || ready.len() >= WORTH_WRITING {
            taken = std::mem::take(&mut *ready);
        }
        drop(ready);
        taken.sort_unstable_by_key(|(block, _)| *block);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Block>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
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
