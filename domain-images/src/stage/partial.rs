//! A regular file while its data arrive, maybe in several frames and by several workers.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::EntryError;
use super::sparse::{self, Extent};
use crate::filelist::Mtime;
use crate::tree::{Attributes, Before, Metadata};

/// A file whose data go on in the next frame.
#[derive(Debug)]
pub(super) struct PartialFile {
    pub(super) path: Vec<u8>,
    pub(super) file: File,
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
    /// What the file was made with.
    pub(super) before: Before,
}

impl PartialFile {
    /// Writes `data`, the stored bytes from `stored` on. Returns whether the file is whole now.
    pub(super) fn write(&self, stored: u64, data: &[u8]) -> Result<bool, EntryError> {
        write(&self.file, self.map.as_deref(), stored, data)?;
        let bytes = data.len() as u64;
        if self.missing.fetch_sub(bytes, Ordering::AcqRel) != bytes {
            return Ok(false);
        }
        let metadata = Metadata {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: &self.xattrs,
        };
        metadata.set_fd(self.file.as_fd(), self.before)?;
        Ok(true)
    }
}

/// Writes stored bytes to where they belong.
pub(super) fn write(
    file: &File,
    map: Option<&[Extent]>,
    stored: u64,
    data: &[u8],
) -> Result<(), EntryError> {
    let put = |offset: u64, piece: &[u8]| {
        file.write_all_at(piece, offset)
            .map_err(|source| EntryError::Os {
                doing: "write",
                source,
            })
    };
    match map {
        Some(map) => sparse::place(map, stored, data, put),
        None => put(stored, data),
    }
}
