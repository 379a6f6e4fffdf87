//! Nothing is there that was not signed.

use std::collections::HashSet;
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::own::OwnFiles;
use super::{SealError, threads};
use crate::filelist::{Entry, ListError};
use crate::stage::whiteout::Whiteout;
use crate::tree::{Root, name, split};

/// Bytes of names that are kept to check deletions.
const MAX_DELETED_BYTES: usize = 8 << 20;

/// A directory and how many entries it should have.
pub(super) struct Counted {
    path: Vec<u8>,
    entries: u64,
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

/// Finds a directory that has another number of entries than are listed.
pub(super) fn count_all(
    root: &Root,
    own: &OwnFiles,
    dirs: &[Counted],
) -> Result<Option<Vec<u8>>, SealError> {
    let chunk = dirs.len().div_ceil(threads()).max(1);
    std::thread::scope(|scope| {
        let running: Vec<_> = dirs
            .chunks(chunk)
            .map(|dirs| {
                scope.spawn(move || {
                    for dir in dirs {
                        let mut found = 0;
                        each_child(root, &dir.path, |path| {
                            found += u64::from(!own.allows(path));
                            Ok(())
                        })?;
                        if found != dir.entries {
                            return Ok(Some(dir.path.clone()));
                        }
                    }
                    Ok(None)
                })
            })
            .collect();
        for thread in running {
            if let Some(dir) = super::metadata::joined(thread.join())? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    })
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

/// Calls `each` with the path of everything in the directory `dir`.
fn each_child(
    root: &Root,
    dir: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), SealError>,
) -> Result<(), SealError> {
    let fd = root.open_dir(dir).map_err(SealError::read(dir))?;
    let mut path = if dir == b"." {
        Vec::new()
    } else {
        [dir, b"/"].concat()
    };
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
