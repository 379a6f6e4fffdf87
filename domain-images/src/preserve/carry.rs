//! Copies what matches.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::{Patterns, PreserveError, matches};
use crate::filelist::Mtime;
use crate::tree::{Attributes, Links, Metadata, Root, fd_xattrs, name, name_xattrs, split};

/// Directories within each other.
const MAX_DEPTH: usize = 256;

/// Carries everything that matches one of `patterns` from `active_root` to `staged_root`; returns how
/// many entries that were. Times of directories in the new root that only got entries stay as they
/// were.
///
/// # Errors
/// The first file that could not be carried; what was carried before stays.
pub fn carry(
    active_root: &Path,
    staged_root: &Path,
    patterns: &[String],
) -> Result<u64, PreserveError> {
    let patterns = Patterns::parse(patterns)?;
    let open = |path: &Path| {
        let shown = path.as_os_str().as_encoded_bytes();
        Root::open(path, Links::Refuse).map_err(fail("open", shown))
    };
    let mut carrier = Carrier {
        from: open(active_root)?,
        to: open(staged_root)?,
        carried: 0,
    };
    for pattern in &patterns.0 {
        carrier.find(pattern, b".")?;
    }
    Ok(carrier.carried)
}

struct Carrier {
    from: Root,
    to: Root,
    carried: u64,
}

impl Carrier {
    /// Carries what matches the rest of a pattern below the directory `path`.
    fn find(&mut self, pattern: &[glob::Pattern], path: &[u8]) -> Result<(), PreserveError> {
        let Some((component, rest)) = pattern.split_first() else {
            return Ok(());
        };
        for child in self.children(path)? {
            if !matches(component, split(&child).1) {
                continue;
            }
            if rest.is_empty() {
                self.entry(&child, 0)?;
            } else if self.is_directory(&child)? {
                self.find(rest, &child)?;
            }
        }
        Ok(())
    }

    /// Paths of what is in the active root's directory `path`, sorted; none if it is not there.
    fn children(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, PreserveError> {
        let dir = match self.from.open_dir(path) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            dir => dir.map_err(fail("open", path))?,
        };
        let mut children = Vec::new();
        for child in Dir::new(dir).map_err(fail("read", path))? {
            let child = child.map_err(fail("read", path))?;
            let last = child.file_name().to_bytes();
            if matches!(last, b"." | b"..") {
                continue;
            }
            children.push(match path {
                b"." => last.to_vec(),
                path => [path, b"/", last].concat(),
            });
        }
        children.sort_unstable();
        Ok(children)
    }

    fn is_directory(&self, path: &[u8]) -> Result<bool, PreserveError> {
        let (dir, last) = place(&self.from, path)?;
        let about = look(dir.as_fd(), last, path)?;
        Ok(FileType::from_raw_mode(about.st_mode) == FileType::Directory)
    }

    fn entry(&mut self, path: &[u8], depth: usize) -> Result<(), PreserveError> {
        if depth > MAX_DEPTH {
            return Err(in_the_way(path, "it is nested too deeply"));
        }
        let (from, last) = place(&self.from, path)?;
        let about = look(from.as_fd(), last, path)?;
        let kind = FileType::from_raw_mode(about.st_mode);
        if kind == FileType::Socket {
            tracing::info!(path = %path.escape_ascii(), "a socket is not carried over");
            return Ok(());
        }
        self.make_parents(split(path).0)?;
        let (to, _) = place(&self.to, path)?;
        let before = rustix::fs::fstat(&to).map_err(fail("look at the directory of", path))?;
        clear_way(to.as_fd(), last, path, kind)?;
        let attributes = match kind {
            FileType::RegularFile | FileType::Directory => {
                open(from.as_fd(), last).and_then(|fd| fd_xattrs(&fd))
            }
            _ => name_xattrs(from.as_fd(), last),
        }
        .map_err(fail("list attributes of", path))?;
        let metadata = metadata(&about, &attributes);
        match kind {
            FileType::RegularFile => copy_file(from.as_fd(), to.as_fd(), last, path, &metadata)?,
            FileType::Directory => {
                match rustix::fs::mkdirat(&to, name(last), Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(fail("make", path)(error)),
                }
                for child in self.children(path)? {
                    self.entry(&child, depth + 1)?;
                }
                let fd = self.to.open_dir(path).map_err(fail("open", path))?;
                set(metadata.set_fd(fd.as_fd()), path)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name(last), Vec::new())
                    .map_err(fail("read", path))?;
                rustix::fs::symlinkat(&target, &to, name(last)).map_err(fail("make", path))?;
                set(metadata.set_name(to.as_fd(), last, true), path)?;
            }
            kind => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(&to, name(last), kind, mode, about.st_rdev)
                    .map_err(fail("make", path))?;
                set(metadata.set_name(to.as_fd(), last, false), path)?;
            }
        }
        self.carried += 1;
        restore_time(to.as_fd(), &before, path)
    }

    /// Makes the directories above a carried entry where the release has none, as the node has them.
    fn make_parents(&mut self, path: &[u8]) -> Result<(), PreserveError> {
        if path == b"." {
            return Ok(());
        }
        match self.to.open_dir(path) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(in_the_way(path, "the release has no directory there"));
            }
            Err(error) => return Err(fail("open", path)(error)),
        }
        let (parent, last) = split(path);
        self.make_parents(parent)?;
        let like = self.from.open_dir(path).map_err(fail("open", path))?;
        let about = rustix::fs::fstat(&like).map_err(fail("look at", path))?;
        let attributes = fd_xattrs(&like).map_err(fail("list attributes of", path))?;
        let dir = self.to.open_dir(parent).map_err(fail("open", parent))?;
        let before = rustix::fs::fstat(&dir).map_err(fail("look at", parent))?;
        rustix::fs::mkdirat(&dir, name(last), Mode::RWXU).map_err(fail("make", path))?;
        let made = self.to.open_dir(path).map_err(fail("open", path))?;
        set(metadata(&about, &attributes).set_fd(made.as_fd()), path)?;
        restore_time(dir.as_fd(), &before, parent)
    }
}

fn place<'p>(root: &Root, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), PreserveError> {
    let (parent, last) = split(path);
    let dir = root
        .open_dir(parent)
        .map_err(fail("open the directory of", path))?;
    Ok((dir, last))
}

fn open(dir: BorrowedFd<'_>, last: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name(last), flags, Mode::empty())
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    last: &[u8],
    path: &[u8],
    metadata: &Metadata<'_, Vec<u8>>,
) -> Result<(), PreserveError> {
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut source = File::from(open(from, last).map_err(fail("open", path))?);
    let target = rustix::fs::openat(to, name(last), write, Mode::RUSR | Mode::WUSR);
    let mut target = File::from(target.map_err(fail("make", path))?);
    std::io::copy(&mut source, &mut target).map_err(fail("copy", path))?;
    set(metadata.set_fd(target.as_fd()), path)
}

/// Removes what the release has at the place of a carried entry. Directories meet directories.
fn clear_way(
    dir: BorrowedFd<'_>,
    last: &[u8],
    path: &[u8],
    kind: FileType,
) -> Result<(), PreserveError> {
    let about = match rustix::fs::statat(dir, name(last), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        about => about.map_err(fail("look at", path))?,
    };
    let found = FileType::from_raw_mode(about.st_mode);
    match (kind == FileType::Directory, found == FileType::Directory) {
        (true, true) => Ok(()),
        (true, false) => Err(in_the_way(path, "the release has no directory there")),
        (false, true) => Err(in_the_way(path, "the release has a directory there")),
        (false, false) => {
            rustix::fs::unlinkat(dir, name(last), AtFlags::empty()).map_err(fail("replace", path))
        }
    }
}

fn metadata<'a>(about: &Stat, attributes: &'a Attributes) -> Metadata<'a, Vec<u8>> {
    Metadata {
        mode: about.st_mode & 0o7777,
        uid: about.st_uid,
        gid: about.st_gid,
        mtime: Mtime {
            seconds: about.st_mtime,
            nanos: u32::try_from(about.st_mtime_nsec).unwrap_or_default(),
        },
        xattrs: attributes,
    }
}

fn restore_time(dir: BorrowedFd<'_>, before: &Stat, path: &[u8]) -> Result<(), PreserveError> {
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.cast_signed(),
    };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    rustix::fs::futimens(dir, &times).map_err(fail("set the time of the directory of", path))
}

fn look(dir: BorrowedFd<'_>, last: &[u8], path: &[u8]) -> Result<Stat, PreserveError> {
    rustix::fs::statat(dir, name(last), AtFlags::SYMLINK_NOFOLLOW).map_err(fail("look at", path))
}

fn set(done: Result<(), (&'static str, Errno)>, path: &[u8]) -> Result<(), PreserveError> {
    done.map_err(|(doing, error)| fail(doing, path)(error))
}

fn fail<E: Into<std::io::Error>>(
    doing: &'static str,
    path: &[u8],
) -> impl FnOnce(E) -> PreserveError + use<E> {
    let path = path.escape_ascii().to_string();
    move |source| PreserveError::File {
        doing,
        path,
        source: source.into(),
    }
}

fn in_the_way(path: &[u8], reason: &'static str) -> PreserveError {
    PreserveError::InTheWay {
        path: path.escape_ascii().to_string(),
        reason,
    }
}
