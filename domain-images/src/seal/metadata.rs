//! What the kernel says about an entry, beside its content.

use std::any::Any;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::content::Content;
use super::extents;
use super::{Scope, SealError, threads};
use crate::filelist::{Entry, Kind, Mtime};
use crate::tree::{Attributes, Parents, Root, fd_xattrs, name, name_xattrs, split};

/// Compares all `entries`; returns the files whose content is still to be compared.
pub(super) fn compare(
    root: &Root,
    scope: &Scope<'_>,
    entries: &[Entry],
) -> Result<Vec<Content>, SealError> {
    let chunk = entries.len().div_ceil(threads()).max(1);
    std::thread::scope(|threads| {
        let running: Vec<_> = entries
            .chunks(chunk)
            .map(|entries| {
                threads.spawn(move || {
                    let mut comparer = Comparer {
                        root,
                        scope,
                        parents: Parents::default(),
                    };
                    let mut files = Vec::new();
                    for entry in entries {
                        files.extend(comparer.entry(entry)?);
                    }
                    Ok(files)
                })
            })
            .collect();
        let mut files = Vec::new();
        for thread in running {
            files.append(&mut joined(thread.join())?);
        }
        Ok(files)
    })
}

/// A thread's result; a panic in it is a bug and goes on here.
pub(super) fn joined<T>(
    result: Result<Result<T, SealError>, Box<dyn Any + Send>>,
) -> Result<T, SealError> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

struct Comparer<'a> {
    root: &'a Root,
    scope: &'a Scope<'a>,
    parents: Parents,
}

impl Comparer<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<Option<Content>, SealError> {
        let read = |error: Errno| match error {
            Errno::NOENT | Errno::NOTDIR => SealError::missing(&entry.path),
            error => SealError::read(&entry.path)(error),
        };
        if entry.kind == Kind::Directory {
            return self.directory(entry).map(|()| None);
        }
        let (dir, last) = self.parents.of(self.root, &entry.path).map_err(read)?;
        let stat =
            rustix::fs::statat(&*dir, name(last), AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
        // Another name for anything but a directory: what it is, its first name says.
        if !matches!(entry.kind, Kind::HardLink(_)) {
            same(entry, "its type", letter(&entry.kind), found_letter(&stat))?;
        }
        self.numbers(entry, &stat)?;
        match &entry.kind {
            Kind::File { size, sha256 } => {
                same(entry, "its size", *size, stat.st_size.cast_unsigned())?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let mode = rustix::fs::Mode::empty();
                let fd = rustix::fs::openat(&*dir, name(last), flags, mode).map_err(read)?;
                attributes(entry, fd_xattrs(&fd).map_err(read)?)?;
                let extents =
                    extents::of(&File::from(fd), *size).map_err(SealError::read(&entry.path))?;
                return Ok(Some(Content {
                    path: entry.path.clone(),
                    size: *size,
                    sha256: *sha256,
                    extents,
                }));
            }
            Kind::HardLink(target) => {
                let (dir, last) = self.parents.of(self.root, target).map_err(read)?;
                let other = rustix::fs::statat(&*dir, name(last), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(read)?;
                same(entry, "the inode it shares", other.st_ino, stat.st_ino)?;
            }
            Kind::Symlink(target) => {
                let found = rustix::fs::readlinkat(&*dir, name(last), Vec::new()).map_err(read)?;
                let found = found.to_bytes().escape_ascii().to_string();
                same(
                    entry,
                    "its target",
                    target.escape_ascii().to_string(),
                    found,
                )?;
                attributes(entry, self.name_attributes(dir.as_fd(), last, entry)?)?;
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                let device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                let show = |(major, minor): (u32, u32)| format!("{major}:{minor}");
                same(entry, "its device", show((*major, *minor)), show(device))?;
                attributes(entry, self.name_attributes(dir.as_fd(), last, entry)?)?;
            }
            Kind::Fifo => attributes(entry, self.name_attributes(dir.as_fd(), last, entry)?)?,
            Kind::Directory => {}
        }
        Ok(None)
    }

    fn name_attributes(
        &self,
        dir: BorrowedFd<'_>,
        last: &[u8],
        entry: &Entry,
    ) -> Result<Attributes, SealError> {
        name_xattrs(dir, last).map_err(SealError::read(&entry.path))
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), SealError> {
        let fd = self.open_directory(entry)?;
        let stat = rustix::fs::fstat(&fd).map_err(SealError::read(&entry.path))?;
        self.numbers(entry, &stat)?;
        let found = fd_xattrs(&fd).map_err(SealError::read(&entry.path))?;
        attributes(entry, found)
    }

    /// In an overlay a link to a directory stands for it: that is how it was unpacked.
    fn open_directory(&self, entry: &Entry) -> Result<OwnedFd, SealError> {
        let path = &entry.path;
        self.root.open_dir(path).map_err(|error| match error {
            Errno::NOENT => SealError::missing(path),
            Errno::NOTDIR | Errno::LOOP => SealError::Differs {
                entry: path.escape_ascii().to_string(),
                what: "its type",
                signed: "d".to_owned(),
                found: self.letter_at(path),
            },
            error => SealError::read(path)(error),
        })
    }

    fn letter_at(&self, path: &[u8]) -> String {
        let (parent, last) = split(path);
        self.root
            .open_dir(parent)
            .and_then(|dir| rustix::fs::statat(&dir, name(last), AtFlags::SYMLINK_NOFOLLOW))
            .map_or_else(
                |_| "unknown".to_owned(),
                |stat| found_letter(&stat).to_string(),
            )
    }

    fn numbers(&self, entry: &Entry, stat: &Stat) -> Result<(), SealError> {
        // A link's own mode means nothing and cannot be set.
        if !matches!(entry.kind, Kind::Symlink(_)) {
            let show = |mode: u32| format!("{mode:04o}");
            same(
                entry,
                "its mode",
                show(entry.mode),
                show(stat.st_mode & 0o7777),
            )?;
        }
        same(entry, "its owner", entry.uid, stat.st_uid)?;
        same(entry, "its group", entry.gid, stat.st_gid)?;
        if entry.kind == Kind::Directory && self.scope.lenient_directories {
            return Ok(());
        }
        let found = Mtime {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX),
        };
        let show = |time: Mtime| format!("{}.{:09}", time.seconds, time.nanos);
        same(entry, "its time", show(entry.mtime), show(found))
    }
}

fn attributes(entry: &Entry, found: Attributes) -> Result<(), SealError> {
    if found == entry.xattrs {
        return Ok(());
    }
    let show = |attributes: &Attributes| {
        let one = |(key, value): &(Vec<u8>, Vec<u8>)| {
            format!("{}={}", key.escape_ascii(), value.escape_ascii())
        };
        attributes.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let (signed, found) = (show(&entry.xattrs), show(&found));
    same(entry, "its extended attributes", signed, found)
}

fn same<T: PartialEq + ToString>(
    entry: &Entry,
    what: &'static str,
    signed: T,
    found: T,
) -> Result<(), SealError> {
    if signed == found {
        return Ok(());
    }
    Err(SealError::Differs {
        entry: entry.path.escape_ascii().to_string(),
        what,
        signed: signed.to_string(),
        found: found.to_string(),
    })
}

fn letter(kind: &Kind) -> char {
    match kind {
        Kind::File { .. } | Kind::HardLink(_) => 'f',
        Kind::Directory => 'd',
        Kind::Symlink(_) => 'l',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
        Kind::Fifo => 'p',
    }
}

fn found_letter(stat: &Stat) -> char {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        _ => '?',
    }
}
