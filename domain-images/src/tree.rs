//! A mounted root as the kernel lets us see it: every path is resolved inside it.

mod metadata;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub(crate) use metadata::{Attributes, Metadata, fd_xattrs, name_xattrs};

/// Descriptors of parent directories that one worker keeps open.
const PARENTS_KEPT: usize = 96;

/// What symbolic links in the middle of a path do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are refused: in a tree that we make, no listed path goes through one.
    Refuse,
    /// They are followed as a process would whose root this is; absolute ones too.
    FollowInside,
}

/// A root directory. Nothing outside its mount can be reached through it.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    links: Links,
}

impl Root {
    /// Opens the directory `path` as a root.
    pub(crate) fn open(path: &Path, links: Links) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, links })
    }

    /// The root directory itself.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens `path` (relative; `.` is the root). The last component is not followed.
    pub(crate) fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_with(path, flags | OFlags::NOFOLLOW)
    }

    /// Opens the directory `path`; where links are followed, a link to a directory is one too.
    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn open_with(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let confined = match self.links {
            Links::Refuse => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Links::FollowInside => ResolveFlags::IN_ROOT,
        };
        let confined = confined | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = flags | OFlags::CLOEXEC;
        let path = OsStr::from_bytes(path);
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), confined) {
                // The kernel could not rule out a race with a rename elsewhere; it says: try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }
}

/// Splits a path into its parent (`.` for none) and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b".", path),
    }
}

/// Parent directories, kept open: entries come sorted, so most share theirs with the one before,
/// and confinement is paid once for a directory.
#[derive(Default)]
pub(crate) struct Parents(HashMap<Vec<u8>, Arc<OwnedFd>>);

impl Parents {
    /// The directory of `root` that holds `path`, and the name in it. One `Parents` serves one root.
    pub(crate) fn of<'p>(
        &mut self,
        root: &Root,
        path: &'p [u8],
    ) -> Result<(Arc<OwnedFd>, &'p [u8]), Errno> {
        let (parent, name) = split(path);
        Ok((self.dir(root, parent)?, name))
    }

    /// The directory `path` of `root` itself, as whose children the next entries may come.
    pub(crate) fn dir(&mut self, root: &Root, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = self.0.get(path) {
            return Ok(Arc::clone(fd));
        }
        if self.0.len() >= PARENTS_KEPT {
            self.0.clear();
        }
        let fd = Arc::new(root.open_dir(path)?);
        self.0.insert(path.to_vec(), Arc::clone(&fd));
        Ok(fd)
    }
}

/// A name as the kernel's interfaces here take it.
pub(crate) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
