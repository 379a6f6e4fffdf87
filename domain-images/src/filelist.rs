//! The file list: every entry of a payload, in text, signed through its digest in the manifest.
//! Against it the written tree is read back.
//!
//! ```text
//! xupg-list 1
//! d 0755 0 0 1700000000 .
//! l 0777 0 0 1700000000 bin link=usr/bin
//! f 0644 0 0 1700000000.250000000 etc/a\x20name size=2 sha256=98ea6e4f...
//! f 0755 0 0 1700000000 usr/bin/ping size=9 sha256=... xattr=security.capability:\x01\x00...
//! h 0755 0 0 1700000000 usr/bin/ping6 link=usr/bin/ping
//! c 0666 0 0 1700000000 dev/null device=1:3
//! ```
//!
//! One line for each entry: type (`f`ile, `d`irectory, sym`l`ink, `h`ard link, `c`haracter and
//! `b`lock device, `p`ipe), permission bits in four octal digits, uid, gid, time of modification
//! (seconds, and nine digits of nanoseconds unless they are zero), path, and what the type adds. A
//! hard link repeats its target's metadata. Bytes outside `!`..`~`, the backslash and the colon are written
//! `\xHH`, so names that are not UTF-8 are kept exactly. Lines are sorted by path, component by
//! component ([`path_order`]), which is the order of a depth-first walk. There is exactly one way to
//! write a tree down, so the digest of the text stands for the tree.
//!
//! Reading and writing take memory for one line, never for the list.

mod field;
mod line;
mod read;
mod write;

use std::cmp::Ordering;

pub use line::BadLine;
pub use read::{ListError, Reader};
pub use write::Writer;

/// The first line.
const HEADER: &str = "xupg-list 1";

/// Bytes of the longest line accepted: a path and [`MAX_XATTR_BYTES`], all of it escaped.
const MAX_LINE: usize = 2 << 20;

/// Bytes of all names and values of one entry's extended attributes.
pub const MAX_XATTR_BYTES: usize = 256 << 10;

/// Whether an entry's attributes give it file capabilities, which are privilege like set-user-id:
/// [`crate::manifest::Allow::setuid`] covers both.
pub(crate) fn has_capability<N: AsRef<[u8]>, V>(xattrs: &[(N, V)]) -> bool {
    xattrs
        .iter()
        .any(|(name, _)| name.as_ref() == b"security.capability")
}

/// One entry of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, without `./` in front; the root itself is `.`.
    pub path: Vec<u8>,
    /// The lower twelve bits: permissions, set-user-id, set-group-id, sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Mtime,
    /// What it is.
    pub kind: Kind,
    /// Extended attributes by full name (`user.x`, `security.capability`,
    /// `system.posix_acl_access`), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Apparent size in bytes, holes included.
        size: u64,
        /// SHA-256 of the whole content, holes read as zeros.
        sha256: crate::manifest::Digest,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target, which is never interpreted here.
    Symlink(Vec<u8>),
    /// Another name for the file at this path of the same payload.
    HardLink(Vec<u8>),
    /// A character device with major and minor number.
    CharDevice(u32, u32),
    /// A block device with major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A time of modification. Ordered as time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds on top, below 1,000,000,000.
    pub nanos: u32,
}

/// Orders paths as a depth-first walk with sorted names meets them: by component, the root first.
#[must_use]
pub fn path_order(left: &[u8], right: &[u8]) -> Ordering {
    // A slash ends a component, so it sorts before every other byte.
    let key =
        |path: &[u8]| -> std::ops::Range<usize> { 0..if path == b"." { 0 } else { path.len() } };
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    left[key(left)]
        .iter()
        .map(rank)
        .cmp(right[key(right)].iter().map(rank))
}

/// Whether `path` is relative, in its shortest form and without `..`: safe to hand to a resolver
/// that stays inside the root. `.` alone, the root, is one.
#[must_use]
pub fn is_normal_path(path: &[u8]) -> bool {
    path == b"."
        || (path.len() <= crate::manifest::limits::PATH
            && !path.contains(&0)
            && path
                .split(|b| *b == b'/')
                .all(|part| !matches!(part, b"" | b"." | b"..") && part.len() <= 255))
}

#[cfg(test)]
#[path = "filelist/tests.rs"]
mod tests;
