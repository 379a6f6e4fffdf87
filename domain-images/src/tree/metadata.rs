//! Owner, mode, extended attributes and time of an entry: set exactly, in the order in which the
//! kernel does not undo what was set before.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::filelist::Mtime;

/// What has to be set on an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata<'a, X> {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: &'a [(X, X)],
}

/// Extended attributes with values.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A step that failed, as a verb, with the kernel's reason.
type Step = Result<(), (&'static str, Errno)>;

impl<X: AsRef<[u8]>> Metadata<'_, X> {
    /// Sets everything on an open file or directory; attributes it should not have go.
    pub(crate) fn set_fd(&self, fd: BorrowedFd<'_>) -> Step {
        // Changing the owner clears set-id bits and capabilities, so it comes first.
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|e| ("set the owner of", e))?;
        for (known, _) in fd_xattrs(fd).map_err(|e| ("list attributes of", e))? {
            if !self.xattrs.iter().any(|(name, _)| name.as_ref() == known) {
                rustix::fs::fremovexattr(fd, super::name(&known))
                    .map_err(|e| ("remove an attribute of", e))?;
            }
        }
        for (name, value) in self.xattrs {
            let flags = XattrFlags::empty();
            rustix::fs::fsetxattr(fd, super::name(name.as_ref()), value.as_ref(), flags)
                .map_err(|e| ("set an attribute of", e))?;
        }
        // After the access ACL, whose mask is the group's permission bits.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
            .map_err(|e| ("set the mode of", e))?;
        rustix::fs::futimens(fd, &self.times()).map_err(|e| ("set the time of", e))
    }

    /// Sets everything on the entry `name` in `dir` that cannot be opened: a link, device or fifo.
    pub(crate) fn set_name(&self, dir: BorrowedFd<'_>, name: &[u8], is_link: bool) -> Step {
        let entry = super::name(name);
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(dir, entry, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ("set the owner of", e))?;
        for (key, value) in self.xattrs {
            let flags = XattrFlags::empty();
            rustix::fs::lsetxattr(
                by_descriptor(dir, name),
                super::name(key.as_ref()),
                value.as_ref(),
                flags,
            )
            .map_err(|e| ("set an attribute of", e))?;
        }
        if !is_link {
            // We have just made it and it is no link, so following is no question.
            rustix::fs::chmodat(dir, entry, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(|e| ("set the mode of", e))?;
        }
        rustix::fs::utimensat(dir, entry, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ("set the time of", e))
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.mtime.seconds,
                tv_nsec: self.mtime.nanos.into(),
            },
        }
    }
}

/// All extended attributes of an open file, sorted by name.
pub(crate) fn fd_xattrs(fd: impl AsFd) -> Result<Attributes, Errno> {
    let mut buffer = [0; 256];
    let names = match rustix::fs::flistxattr(&fd, &mut buffer[..]) {
        Ok(length) => buffer[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut names = vec![0; rustix::fs::flistxattr_query(&fd)?];
            let length = rustix::fs::flistxattr(&fd, &mut names[..])?;
            names.truncate(length);
            names
        }
        Err(error) => return Err(error),
    };
    values(&names, |name| {
        let mut value = vec![0; rustix::fs::fgetxattr_query(&fd, super::name(name))?];
        let length = rustix::fs::fgetxattr(&fd, super::name(name), &mut value[..])?;
        value.truncate(length);
        Ok(value)
    })
}

/// All extended attributes of the entry `name` in `dir`, which is not followed.
pub(crate) fn name_xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attributes, Errno> {
    let path = by_descriptor(dir, name);
    let bytes = rustix::fs::llistxattr_query(path.as_slice())?;
    if bytes == 0 {
        return Ok(Attributes::new());
    }
    let mut names = vec![0; bytes];
    let length = rustix::fs::llistxattr(path.as_slice(), &mut names[..])?;
    names.truncate(length);
    values(&names, |name| {
        let key = super::name(name);
        let mut value = vec![0; rustix::fs::lgetxattr_query(path.as_slice(), key)?];
        let length = rustix::fs::lgetxattr(path.as_slice(), key, &mut value[..])?;
        value.truncate(length);
        Ok(value)
    })
}

fn values(
    names: &[u8],
    mut get: impl FnMut(&[u8]) -> Result<Vec<u8>, Errno>,
) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        attributes.push((name.to_vec(), get(name)?));
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// There is no `lsetxattrat` before Linux 6.13; `/proc` leads to the directory we hold, and no
/// further link is followed.
fn by_descriptor(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
