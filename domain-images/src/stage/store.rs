//! What the slot keeps about its release: the signed manifest and lists, against which it can be
//! compared at any time.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::Problem;
use crate::filelist::{ListError, Reader};
use crate::manifest::Payload;
use crate::tree::{Root, name, split};

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
        let file = create(slot, list_path(&domain).as_bytes())?;
        Ok(Self { file, domain })
    }

    /// dom0's list comes before there is a slot to keep it in: until then, in a file without a name
    /// in `folder`.
    pub(super) fn nameless(payload: &Payload, folder: &Path) -> Result<Self, Problem> {
        let doing = || format!("create a file in {}", folder.display());
        let file = tempfile::tempfile_in(folder).map_err(Problem::io(doing()))?;
        let domain = payload.domain.clone();
        Ok(Self { file, domain })
    }

    /// Stores it in the slot.
    pub(super) fn keep(&self, slot: &Root) -> Result<(), Problem> {
        let from = self.file.try_clone();
        let from = from.map_err(Problem::io(format!(
            "read the file list of {}",
            self.domain
        )))?;
        put(
            slot,
            &format!("{}{LIST_SUFFIX}", self.domain),
            At { file: from, at: 0 },
        )
    }

    /// Appends what a list frame holds.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<(), Problem> {
        use std::io::Write as _;
        self.file.write_all(piece).map_err(Problem::io(format!(
            "store the file list of {}",
            self.domain
        )))
    }

    /// Calls `each` for every entry, or every one of a type. Only when it returns `Ok` were the entries
    /// the signed ones; but all pieces were checked one by one before.
    pub(super) fn each(
        &self,
        payload: &Payload,
        only: Option<u8>,
        mut each: impl FnMut(crate::filelist::Entry) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut reader = self.reader(payload).map_err(|source| self.bad(source))?;
        if let Some(letter) = only {
            reader = reader.only(letter);
        }
        for entry in reader {
            each(entry.map_err(|source| self.bad(source))?)?;
        }
        Ok(())
    }

    /// Reads the list from its beginning.
    pub(super) fn reader(&self, payload: &Payload) -> Result<ListReader, ListError> {
        open_list(self.file.try_clone()?, payload)
    }

    pub(super) fn bad(&self, source: ListError) -> Problem {
        Problem::List {
            domain: self.domain.clone(),
            source,
        }
    }
}

fn list_path(domain: &str) -> String {
    format!("{RELEASE_DIR}/{domain}{LIST_SUFFIX}")
}

/// A file read from its beginning, whoever else reads it.
pub(crate) struct At {
    file: File,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// A stored list, decompressed as it is read.
pub(crate) type ListReader = Reader<BufReader<zstd::stream::read::Decoder<'static, BufReader<At>>>>;

/// Reads a stored list.
pub(crate) fn open_list(file: File, payload: &Payload) -> Result<ListReader, ListError> {
    Reader::open_packed(At { file, at: 0 }, payload.file_list)
}

/// Stores one of the slot's own files. It is on the disk when the slot is unmounted.
pub(super) fn put(slot: &Root, file: &str, mut content: impl Read) -> Result<(), Problem> {
    let path = format!("{RELEASE_DIR}/{file}");
    let mut stored = create(slot, path.as_bytes())?;
    std::io::copy(&mut content, &mut stored)
        .map(drop)
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
