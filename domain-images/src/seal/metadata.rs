//! What the kernel says about an entry, beside its content.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::content::Content;
use super::verdict::{Found, Verdict};
use super::{Piece, Queue, Scope, SealError, extents, extra};
use crate::filelist::{Entry, Kind, Mtime};
use crate::tree::{Attributes, Parents, Root, fd_xattrs, name, name_xattrs, split};

/// Bytes of files' descriptions that are handed on at once.
const HANDED_ON: usize = 128 << 10;

/// Compares the pieces that come; hands the files on whose content is still to be compared.
pub(super) fn compare_all(
    root: &Root,
    scope: &Scope<'_>,
    ahead: Option<&Ahead<'_>>,
    pieces: &Queue<Piece>,
    to_sort: &SyncSender<Vec<Content>>,
    verdict: &Verdict,
) {
    let mut comparer = Comparer {
        root,
        scope,
        ahead,
        parents: Parents::default(),
        names: Vec::with_capacity(extra::NAMES),
    };
    while let Some(piece) = pieces.take() {
        // All are taken, so that nobody waits for room in the queue.
        if verdict.is_moot(piece.number) {
            continue;
        }
        match comparer.piece(&piece, to_sort) {
            Ok(None) => {}
            Ok(Some(dir)) => verdict.fail(piece.number, Found::Odd(dir)),
            Err(error) => verdict.fail(piece.number, Found::Error(error)),
        }
    }
}

struct Comparer<'a> {
    root: &'a Root,
    scope: &'a Scope<'a>,
    ahead: Option<&'a Ahead<'a>>,
    parents: Parents,
    /// Room for the names in a directory.
    names: Vec<u8>,
}

impl Comparer<'_> {
    /// Returns a directory that has another number of entries than are listed.
    fn piece(
        &mut self,
        piece: &Piece,
        to_sort: &SyncSender<Vec<Content>>,
    ) -> Result<Option<Vec<u8>>, SealError> {
        let mut files = Vec::new();
        let mut bytes = 0;
        for entry in &piece.entries {
            let Some(file) = self.entry(entry)? else {
                continue;
            };
            bytes += file.weight();
            files.push(file);
            if bytes >= HANDED_ON {
                bytes = 0;
                // It fails only after a panic in the sorter, which ends the seal.
                let _ = to_sort.send(std::mem::take(&mut files));
            }
        }
        if !files.is_empty() {
            let _ = to_sort.send(files);
        }
        for dir in &piece.dirs {
            let read = |error: Errno| SealError::read(&dir.path)(error);
            let fd = self.parents.dir(self.root, &dir.path).map_err(read)?;
            let found = extra::count(&fd, dir, self.scope.own, &mut self.names).map_err(read)?;
            if found != dir.entries {
                return Ok(Some(dir.path.clone()));
            }
        }
        Ok(None)
    }

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
                let show = |target: &[u8]| target.escape_ascii().to_string();
                same_shown(
                    entry,
                    "its target",
                    target.as_slice(),
                    found.to_bytes(),
                    show,
                )?;
                attributes(entry, self.name_attributes(dir.as_fd(), last, entry)?)?;
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                let device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                let show = |(major, minor): &(u32, u32)| format!("{major}:{minor}");
                same_shown(entry, "its device", &(*major, *minor), &device, show)?;
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
        if let Some(ahead) = self.ahead {
            ahead.directory(&*fd);
        }
        let stat = rustix::fs::fstat(&*fd).map_err(SealError::read(&entry.path))?;
        self.numbers(entry, &stat)?;
        let found = fd_xattrs(&*fd).map_err(SealError::read(&entry.path))?;
        attributes(entry, found)
    }

    /// In an overlay a link to a directory stands for it: that is how it was unpacked.
    fn open_directory(&mut self, entry: &Entry) -> Result<Arc<OwnedFd>, SealError> {
        let path = &entry.path;
        let opened = self.parents.dir(self.root, path);
        opened.map_err(|error| match error {
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
            let show = |mode: &u32| format!("{mode:04o}");
            same_shown(
                entry,
                "its mode",
                &entry.mode,
                &(stat.st_mode & 0o7777),
                show,
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
        let show = |time: &Mtime| format!("{}.{:09}", time.seconds, time.nanos);
        same_shown(entry, "its time", &entry.mtime, &found, show)
    }
}

fn attributes(entry: &Entry, found: Attributes) -> Result<(), SealError> {
    let show = |attributes: &Attributes| {
        let one = |(key, value): &(Vec<u8>, Vec<u8>)| {
            format!("{}={}", key.escape_ascii(), value.escape_ascii())
        };
        attributes.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let what = "its extended attributes";
    same_shown(entry, what, &entry.xattrs, &found, show)
}

fn same<T: PartialEq + ToString>(
    entry: &Entry,
    what: &'static str,
    signed: T,
    found: T,
) -> Result<(), SealError> {
    same_shown(entry, what, &signed, &found, T::to_string)
}

/// Compares values and puts them into words only when they differ.
fn same_shown<T: PartialEq + ?Sized>(
    entry: &Entry,
    what: &'static str,
    signed: &T,
    found: &T,
    show: impl Fn(&T) -> String,
) -> Result<(), SealError> {
    if signed == found {
        return Ok(());
    }
    Err(SealError::Differs {
        entry: entry.path.escape_ascii().to_string(),
        what,
        signed: show(signed),
        found: show(found),
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
