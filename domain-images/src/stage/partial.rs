//! A regular file while its data arrive, maybe in several frames and by several workers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::EntryError;
use super::sparse::{self, Extent};
use crate::aligned::BLOCK;
use crate::filelist::Mtime;
use crate::tree::{Attributes, Metadata};

/// Files of as many bytes are written past the page cache, which would cost a copy and more. For
/// smaller ones the disk's answer, for which a worker waits, costs more than that.
const WORTH_DIRECT: u64 = 1 << 20;

/// A file whose data go on in the next frame.
#[derive(Debug)]
pub(super) struct PartialFile {
    pub(super) path: Vec<u8>,
    pub(super) output: Output,
    pub(super) stored: u64,
    pub(super) map: Option<Vec<Extent>>,
    /// Stored bytes that have come so far, written or not: where the next frame goes on.
    pub(super) arrived: AtomicU64,
    /// Stored bytes that nobody has written yet; who writes the last ones finishes the file.
    pub(super) missing: AtomicU64,
    /// What follows the data, since writing changes times and drops set-id bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Mtime,
    pub(super) xattrs: Attributes,
}

impl PartialFile {
    /// Writes `data`, the stored bytes from `stored` on.
    pub(super) fn write(&self, stored: u64, data: &[u8]) -> Result<(), EntryError> {
        self.output.write(self.map.as_deref(), stored, data)?;
        let bytes = data.len() as u64;
        if self.missing.fetch_sub(bytes, Ordering::AcqRel) != bytes {
            return Ok(());
        }
        let metadata = Metadata {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: &self.xattrs,
        };
        Ok(metadata.set_fd(self.output.file.as_fd())?)
    }
}

/// A file's content on its way to the disk.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// The same file past the page cache.
    direct: Option<File>,
}

impl Output {
    /// A new file with `stored` bytes to come; `open` opens it once more with more flags.
    pub(super) fn new(
        file: File,
        stored: u64,
        open: impl FnOnce(OFlags) -> Result<OwnedFd, Errno>,
    ) -> Self {
        let direct = (stored >= WORTH_DIRECT).then(|| open(OFlags::DIRECT));
        Self {
            file,
            // A file system that cannot do it has the page cache.
            direct: direct.and_then(Result::ok).map(File::from),
        }
    }

    /// Writes stored bytes to where they belong.
    pub(super) fn write(
        &self,
        map: Option<&[Extent]>,
        stored: u64,
        data: &[u8],
    ) -> Result<(), EntryError> {
        let put = |offset: u64, piece: &[u8]| {
            self.put(offset, piece).map_err(|source| EntryError::Os {
                doing: "write",
                source,
            })
        };
        match map {
            Some(map) => sparse::place(map, stored, data, put),
            None => put(stored, data),
        }
    }

    /// Whole blocks go from our memory to the disk; what is left at a file's end, and all that does
    /// not begin at a block, through the page cache.
    fn put(&self, offset: u64, piece: &[u8]) -> io::Result<()> {
        let whole = piece.len() / BLOCK * BLOCK;
        let mut done = 0;
        if let Some(direct) = &self.direct
            && offset.is_multiple_of(BLOCK as u64)
        {
            match direct.write_all_at(&piece[..whole], offset) {
                Ok(()) => done = whole,
                // The device wants memory aligned in another way.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        self.file.write_all_at(&piece[done..], offset + done as u64)
    }
}
