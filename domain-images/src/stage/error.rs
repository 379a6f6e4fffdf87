//! Why a stage did not come about.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use crate::bundle::ReadError;
use crate::ext4::FillError;
use crate::filelist::ListError;
use crate::image::ImageError;
use crate::seal::SealError;

/// The outcome of a stage that did not succeed: whether anything was written is part of it.
#[derive(Debug, Error)]
pub enum Error {
    /// Nothing was written anywhere; the slot is what it was.
    #[error(transparent)]
    Refused(Problem),
    /// The slot holds no whole release.
    #[error(transparent)]
    Failed(Problem),
}

impl Error {
    /// What went wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Refused(problem) | Self::Failed(problem) => problem,
        }
    }
}

/// What went wrong in a stage.
#[derive(Debug, Error)]
pub enum Problem {
    /// The bundle is not what its manifest says, or cannot be read.
    #[error(transparent)]
    Bundle(#[from] ReadError),
    /// A payload's image or the slot cannot be made, checked, attached or mounted.
    #[error("payload `{domain}`: {source}")]
    Image {
        /// Whose payload.
        domain: String,
        /// What about its image.
        source: ImageError,
    },
    /// An entry is refused, or the kernel refuses to make it.
    #[error("payload `{domain}`, entry `{entry}`: {source}")]
    Entry {
        /// Whose payload.
        domain: String,
        /// The entry's path, escaped.
        entry: String,
        /// What about it.
        source: EntryError,
    },
    /// A payload's signed file list is not usable.
    #[error("payload `{domain}`: {source}")]
    List {
        /// Whose payload.
        domain: String,
        /// What about its list.
        source: ListError,
    },
    /// A payload holds more or less than its manifest says.
    #[error("payload `{domain}` has {found} {what}, not the signed {signed}")]
    Count {
        /// Whose payload.
        domain: String,
        /// What was counted.
        what: &'static str,
        /// The manifest's number.
        signed: u64,
        /// What was found; at least, when the stage ended there.
        found: u64,
    },
    /// The written tree is not what was signed.
    #[error("payload `{domain}`: {source}")]
    Seal {
        /// Whose payload.
        domain: String,
        /// The first difference.
        source: SealError,
    },
    /// The release does not fit.
    #[error("{what} needs {needed} bytes, {available} are there")]
    TooLarge {
        /// The slot, or an image.
        what: String,
        /// Bytes needed at least.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The caller did not allow the overlay payloads to be written.
    #[error("the domains could not be brought to rest: {0}")]
    NotAtRest(Box<dyn std::error::Error + Send + Sync>),
    /// A file of the stage's own, such as the stored manifest.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Problem {
    pub(crate) fn io<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(crate) fn image(domain: &str) -> impl FnOnce(ImageError) -> Self {
        move |source| Self::Image {
            domain: domain.to_owned(),
            source,
        }
    }

    pub(crate) fn entry(domain: &str, path: &[u8], source: EntryError) -> Self {
        Self::Entry {
            domain: domain.to_owned(),
            entry: path.escape_ascii().to_string(),
            source,
        }
    }
}

/// What is wrong with one entry.
#[derive(Debug, Error)]
pub enum EntryError {
    /// It may not be in a payload, or not there.
    #[error("{0}")]
    Refused(&'static str),
    /// The kernel refuses.
    #[error("cannot {doing} it ({source})")]
    Os {
        /// A verb.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl EntryError {
    pub(crate) fn os(doing: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Os {
            doing,
            source: source.into(),
        }
    }
}

impl From<FillError> for EntryError {
    fn from(error: FillError) -> Self {
        let source = match error {
            FillError::Refused(reason) => return Self::Refused(reason),
            FillError::Full | FillError::NoInodes => Errno::NOSPC.into(),
            FillError::Io(source) => source,
            other @ FillError::Unexpected(_) => io::Error::other(other),
        };
        let doing = "make";
        Self::Os { doing, source }
    }
}

impl From<(&'static str, Errno)> for EntryError {
    fn from((doing, source): (&'static str, Errno)) -> Self {
        Self::os(doing)(source)
    }
}
