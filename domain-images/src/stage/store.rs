//! What the slot keeps about its release: the signed manifest and lists, against which it can be
//! compared at any time.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::Problem;
use crate::filelist::{ListError, Reader};
use crate::manifest::Payload;
use crate::tree::{Links, Root, name, split};

/// Where a slot keeps what was signed about it; relative to its root.
pub(crate) const RELEASE_DIR: &str = "var/lib/xupg/release";
/// What follows the domain in a stored list's name.
pub(crate) const LIST_SUFFIX: &str = ".list.zst";

/// A list file while it is written and read.
pub(super) struct ListFile {
    file: File,
    domain: String,
}

impl ListFile {
    /// Creates the payload's list in the slot.
    pub(super) fn create(slot: &Root, payload: &Payload) -> Result<Self, Problem> {
        let domain = payload.domain.clone();
        let path = format!("{RELEASE_DIR}/{domain}{LIST_SUFFIX}");
        let file = create(slot, path.as_bytes())?;
        Ok(Self { file, domain })
    }

    /// Appends what a list frame holds.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<(), Problem> {
        use std::io::Write as _;
        self.file.write_all(piece).map_err(Problem::io(format!(
            "store the file list of {}",
            self.domain
        )))
    }

    /// Calls `each` for every entry. Only when it returns `Ok` were the entries the signed ones; but
    /// all pieces were checked one by one before.
    pub(super) fn each(
        &self,
        payload: &Payload,
        mut each: impl FnMut(crate::filelist::Entry) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        for entry in self.reader(payload).map_err(|source| self.bad(source))? {
            each(entry.map_err(|source| self.bad(source))?)?;
        }
        Ok(())
    }

    /// Reads the list from its beginning.
    pub(super) fn reader(&self, payload: &Payload) -> Result<ListReader, ListError> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        open_list(file, payload)
    }

    /// Closes the list, so that the slot can be unmounted.
    pub(super) fn close(self) -> ClosedList {
        ClosedList(self.domain)
    }

    fn bad(&self, source: ListError) -> Problem {
        Problem::List {
            domain: self.domain.clone(),
            source,
        }
    }
}

/// A list that is stored and not open.
pub(super) struct ClosedList(String);

impl ClosedList {
    /// Opens it again in the slot that is mounted at `root`.
    pub(super) fn reopen(self, root: &Path) -> Result<ListFile, Problem> {
        let path = format!("{RELEASE_DIR}/{}{LIST_SUFFIX}", self.0);
        let file = Root::open(root, Links::Refuse)
            .and_then(|root| root.open_at(path.as_bytes(), OFlags::RDONLY))
            .map_err(Problem::io(format!("open {path} in the slot")))?;
        Ok(ListFile {
            file: file.into(),
            domain: self.0,
        })
    }
}

/// A stored list, decompressed as it is read.
pub(crate) type ListReader =
    Reader<BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>>;

/// Reads a stored list.
pub(crate) fn open_list(file: File, payload: &Payload) -> Result<ListReader, ListError> {
    Reader::open_packed(file, payload.file_list)
}

/// Stores one of the slot's own files.
pub(super) fn put(slot: &Root, file: &str, mut content: impl Read) -> Result<(), Problem> {
    let path = format!("{RELEASE_DIR}/{file}");
    let mut stored = create(slot, path.as_bytes())?;
    std::io::copy(&mut content, &mut stored)
        .and_then(|_| stored.sync_all())
        .map_err(Problem::io(format!("store {path} in the slot")))
}

fn create(slot: &Root, path: &[u8]) -> Result<File, Problem> {
    let doing = || format!("create {} in the slot", path.escape_ascii());
    let (parent, last) = split(path);
    make_dirs(slot, parent).map_err(Problem::io(doing()))?;
    let dir = slot.open_dir(parent).map_err(Problem::io(doing()))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    rustix::fs::openat(&dir, name(last), flags, mode)
        .map(File::from)
        .map_err(Problem::io(doing()))
}

/// Makes `path` and the directories above it, where they are missing.
pub(super) fn make_dirs(root: &Root, path: &[u8]) -> Result<(), Errno> {
    if path == b"." {
        return Ok(());
    }
    let (parent, last) = split(path);
    make_dirs(root, parent)?;
    let dir = root.open_dir(parent)?;
    match rustix::fs::mkdirat(&dir, name(last), Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => root.open_dir(path).map(drop),
        Err(error) => Err(error),
    }
}
