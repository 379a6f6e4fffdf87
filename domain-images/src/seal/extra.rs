//! Nothing is there that was not signed.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, RawDir, SeekFrom};
use rustix::io::Errno;

use super::SealError;
use super::own::OwnFiles;
use crate::filelist::{Entry, ListError};
use crate::stage::whiteout::Whiteout;
use crate::tree::{Root, name, split};

/// Bytes of names that are kept to check deletions.
const MAX_DELETED_BYTES: usize = 8 << 20;

/// Bytes of names that are read at once.
pub(super) const NAMES: usize = 32 << 10;

/// A directory and how many entries it should have.
pub(super) struct Counted {
    pub(super) path: Vec<u8>,
    pub(super) entries: u64,
}

/// Counts listed entries by directory, while the list comes in the order of a depth-first walk.
pub(super) struct Counter {
    /// From the root down to where the walk is.
    open: Vec<Counted>,
    closed: Vec<Counted>,
}

impl Counter {
    pub(super) fn new() -> Self {
        let root = Counted {
            path: b".".to_vec(),
            entries: 0,
        };
        Self {
            open: vec![root],
            closed: Vec::new(),
        }
    }

    /// Counts the next entry of the list.
    pub(super) fn count(
        &mut self,
        path: &[u8],
        own: &OwnFiles,
        is_directory: bool,
    ) -> Result<(), SealError> {
        if path == b"." {
            return Ok(());
        }
        let parent = split(path).0;
        while self.open.last().is_some_and(|dir| dir.path != parent) {
            self.closed.extend(self.open.pop());
        }
        // Whatever the list left out must not be there either.
        let dir = self
            .open
            .last_mut()
            .ok_or_else(|| SealError::extra(parent))?;
        if !own.allows(path) {
            dir.entries += 1;
        }
        if is_directory {
            self.open.push(Counted {
                path: path.to_vec(),
                entries: 0,
            });
        }
        Ok(())
    }

    /// The directories whose entries are all counted; at the end of the list, all that are left.
    pub(super) fn take_closed(&mut self, at_end: bool) -> Vec<Counted> {
        if at_end {
            self.closed.append(&mut self.open);
        }
        std::mem::take(&mut self.closed)
    }
}

/// How many entries the open directory `dir` has that are to be counted. `names` is what its names
/// are read into.
pub(super) fn count(
    fd: &OwnedFd,
    dir: &Counted,
    own: &OwnFiles,
    names: &mut Vec<u8>,
) -> Result<u64, Errno> {
    // Whoever had the descriptor before may have read names, too.
    rustix::fs::seek(fd, SeekFrom::Start(0))?;
    names.clear();
    let mut children = RawDir::new(fd, names.spare_capacity_mut());
    let mut path = stem(&dir.path);
    let stem = path.len();
    let mut found = 0;
    while let Some(child) = children.next() {
        let child = child?;
        let last = child.file_name().to_bytes();
        if !matches!(last, b"." | b"..") {
            path.truncate(stem);
            path.extend_from_slice(last);
            found += u64::from(!own.allows(&path));
        }
    }
    Ok(found)
}

/// The error that names what is extra in `dir`. Memory for one directory's names, on this path only.
pub(super) fn name_it(
    root: &Root,
    own: &OwnFiles,
    dir: &[u8],
    list: impl Iterator<Item = Result<Entry, ListError>>,
) -> Result<SealError, SealError> {
    let mut listed = HashSet::new();
    for entry in list {
        let entry = entry?;
        if split(&entry.path).0 == dir {
            listed.insert(entry.path);
        }
    }
    let mut extra = None;
    each_child(root, dir, |path| {
        if extra.is_none() && !listed.contains(path) && !own.allows(path) {
            extra = Some(path.to_vec());
        }
        Ok(())
    })?;
    Ok(extra.map_or_else(|| SealError::extra(dir), |path| SealError::extra(&path)))
}

/// What the paths of everything in the directory `dir` begin with.
fn stem(dir: &[u8]) -> Vec<u8> {
    if dir == b"." {
        Vec::new()
    } else {
        [dir, b"/"].concat()
    }
}

/// Calls `each` with the path of everything in the directory `dir`.
fn each_child(
    root: &Root,
    dir: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), SealError>,
) -> Result<(), SealError> {
    let fd = root.open_dir(dir).map_err(SealError::read(dir))?;
    let mut path = stem(dir);
    let stem = path.len();
    for child in Dir::new(fd).map_err(SealError::read(dir))? {
        let child = child.map_err(SealError::read(dir))?;
        let last = child.file_name().to_bytes();
        if !matches!(last, b"." | b"..") {
            path.truncate(stem);
            path.extend_from_slice(last);
            each(&path)?;
        }
    }
    Ok(())
}

/// What an overlay payload deletes. What it brings itself at the same place may be there.
#[derive(Default)]
pub(super) struct Deleted {
    entries: Vec<Vec<u8>>,
    contents: Vec<Vec<u8>>,
    bytes: usize,
}

impl Deleted {
    pub(super) fn add(&mut self, whiteout: &Whiteout<'_>) -> Result<(), SealError> {
        match whiteout {
            Whiteout::Entry(path) => Self::push(&mut self.bytes, &mut self.entries, path),
            Whiteout::Contents(dir) => Self::push(&mut self.bytes, &mut self.contents, dir),
        }
    }

    fn push(bytes: &mut usize, to: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<(), SealError> {
        *bytes += path.len() + size_of::<Vec<u8>>();
        if *bytes > MAX_DELETED_BYTES {
            return Err(SealError::TooManyDeletions);
        }
        to.push(path.to_vec());
        Ok(())
    }

    /// Fails for anything deleted that is there and that the payload has not brought itself.
    pub(super) fn check<L: Iterator<Item = Result<Entry, ListError>>>(
        mut self,
        root: &Root,
        lists: &mut impl FnMut() -> Result<L, ListError>,
    ) -> Result<(), SealError> {
        let mut there = HashSet::new();
        for path in std::mem::take(&mut self.entries) {
            if exists(root, &path)? {
                there.insert(path);
            }
        }
        for dir in std::mem::take(&mut self.contents) {
            match root.open_dir(&dir) {
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(SealError::read(&dir)(error)),
                Ok(_) => {}
            }
            each_child(root, &dir, |path| {
                self.bytes += path.len() + size_of::<Vec<u8>>();
                if self.bytes > MAX_DELETED_BYTES {
                    return Err(SealError::TooManyDeletions);
                }
                there.insert(path.to_vec());
                Ok(())
            })?;
        }
        if there.is_empty() {
            return Ok(());
        }
        for entry in lists()? {
            there.remove(&entry?.path);
        }
        match there.iter().min() {
            None => Ok(()),
            Some(path) => Err(SealError::NotDeleted {
                entry: path.escape_ascii().to_string(),
            }),
        }
    }
}

fn exists(root: &Root, path: &[u8]) -> Result<bool, SealError> {
    let (parent, last) = split(path);
    let found = root
        .open_dir(parent)
        .and_then(|dir| rustix::fs::statat(dir.as_fd(), name(last), AtFlags::SYMLINK_NOFOLLOW));
    match found {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(SealError::read(path)(error)),
    }
}
