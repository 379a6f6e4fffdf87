//! What can go wrong, and what it means to the caller.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A failed operation on xenstore.
#[derive(Debug)]
pub struct Error {
    operation: &'static str,
    path: String,
    kind: ErrorKind,
}

/// What a failure means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such node.
    NotFound,
    /// The node's permissions do not allow it.
    Denied,
    /// A quota of xenstored is used up: nodes, watches, transactions or memory.
    Quota,
    /// The value, the path or the list of permissions is longer than xenstored takes.
    TooBig,
    /// The transaction collided with another writer each time it was tried.
    Conflict,
    /// xenstored has gone away; the next call tries a new connection.
    Disconnected,
    /// xenstored did not answer before the deadline. What was asked may still happen.
    Timeout,
    /// There is no xenstored: not under Xen, or not started yet.
    Unavailable,
    /// The path is not one that xenstore allows; xenstored was not asked.
    BadPath,
    /// Anything else, as the operating system's error number.
    Other(i32),
}

impl Error {
    pub(crate) fn new(operation: &'static str, path: impl Into<String>, kind: ErrorKind) -> Self {
        Self {
            operation,
            path: path.into(),
            kind,
        }
    }

    /// What it means to the caller.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The path that was operated on; empty for operations without one.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl ErrorKind {
    /// libxenstore passes xenstored's error names on as errno, among its own.
    pub(crate) fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOSPC | Errno::DQUOT => Self::Quota,
            Errno::TOOBIG => Self::TooBig,
            Errno::AGAIN => Self::Conflict,
            // BADF is libxenstore's word for the end of the connection.
            Errno::BADF | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Disconnected,
            other => Self::Other(other.raw_os_error()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xenstore: cannot {}", self.operation)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no such node",
            Self::Denied => "permission denied",
            Self::Quota => "a xenstored quota is used up",
            Self::TooBig => "longer than xenstored takes",
            Self::Conflict => "other writers kept interfering",
            Self::Disconnected => "xenstored has gone away",
            Self::Timeout => "xenstored does not answer in time",
            Self::Unavailable => "no xenstored is running (is this a Xen dom0?)",
            Self::BadPath => "not a valid xenstore path",
            Self::Other(errno) => return io::Error::from_raw_os_error(*errno).fmt(f),
        })
    }
}

impl std::error::Error for Error {}
