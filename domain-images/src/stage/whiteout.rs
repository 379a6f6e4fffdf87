//! Deletions in overlay payloads, as OCI images have them.
//!
//! * `dir/.wh.name`: an empty file that says that `dir/name` of the image below is deleted, with
//!   everything in it.
//! * `dir/.wh..wh..opq`: an empty file that says that everything in `dir` of the image below is
//!   deleted; the directory itself stays.
//!
//! They are about the image below only, wherever in the payload they come: the signed list is read
//! and all of them are applied before the first entry is unpacked. What the payload itself brings is
//! not touched. Names are resolved inside the image. A whiteout of something that is not there does
//! nothing. The whiteout files themselves are never made.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::EntryError;
use crate::filelist::Entry;
use crate::tree::{Root, name, split};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Directories within each other that are removed; a guest can nest them without end.
const MAX_DEPTH: u32 = 256;

/// What a path means if it is a whiteout.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whiteout<'a> {
    /// Everything in this directory goes.
    Contents(&'a [u8]),
    /// This entry goes.
    Entry(Vec<u8>),
}

/// Whether `path` is a whiteout, sound or not.
pub(super) fn is_whiteout(path: &[u8]) -> bool {
    split(path).1.starts_with(PREFIX)
}

/// What the whiteout `path` deletes; `None` when it is none.
pub(crate) fn parse(path: &[u8]) -> Result<Option<Whiteout<'_>>, EntryError> {
    let (parent, last) = split(path);
    if last == OPAQUE {
        return Ok(Some(Whiteout::Contents(parent)));
    }
    let Some(hidden) = last.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    // `.wh..wh.x` is reserved, and `.` and `..` must not be reached this way.
    if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(PREFIX) {
        return Err(EntryError::Refused("it is no whiteout that is known"));
    }
    let mut path = parent.to_vec();
    if parent == b"." {
        path.clear();
    } else {
        path.push(b'/');
    }
    path.extend_from_slice(hidden);
    Ok(Some(Whiteout::Entry(path)))
}

/// Applies the whiteout that `entry` may be to the copied image.
pub(super) fn apply(root: &Root, entry: &Entry) -> Result<(), EntryError> {
    let done = match parse(&entry.path)? {
        None => return Ok(()),
        Some(Whiteout::Contents(dir)) => root
            .open_dir(dir)
            .and_then(|dir| remove_contents(dir.as_fd(), MAX_DEPTH)),
        Some(Whiteout::Entry(path)) => {
            let (parent, last) = split(&path);
            root.open_dir(parent)
                .and_then(|dir| remove(dir.as_fd(), last, MAX_DEPTH))
        }
    };
    match done {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(EntryError::os("delete what is under")(error)),
    }
}

fn remove(dir: BorrowedFd<'_>, last: &[u8], depth: u32) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name(last), AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        done => return done,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(dir, name(last), flags, Mode::empty())?;
    remove_contents(
        inner.as_fd(),
        depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?,
    )?;
    rustix::fs::unlinkat(dir, name(last), AtFlags::REMOVEDIR)
}

fn remove_contents(dir: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    // Removing while reading may hide entries from the reader, so it starts anew until none is left.
    loop {
        let mut removed = false;
        for found in Dir::read_from(dir)? {
            let found = found?;
            let last = found.file_name().to_bytes();
            if !matches!(last, b"." | b"..") {
                remove(dir, last, depth)?;
                removed = true;
            }
        }
        if !removed {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_are_told_apart() {
        let entry = |path: &[u8]| Some(Whiteout::Entry(path.to_vec()));
        assert_eq!(parse(b"a/.wh.b").unwrap(), entry(b"a/b"));
        assert_eq!(parse(b".wh.b").unwrap(), entry(b"b"));
        let all = Some(Whiteout::Contents(b"a"));
        assert_eq!(parse(b"a/.wh..wh..opq").unwrap(), all);
        assert_eq!(parse(b"a/wh.b").unwrap(), None);
        for bad in [&b"a/.wh."[..], b".wh...", b".wh..", b"a/.wh..wh.aufs"] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
