//! A difference between what was signed and what is on the disk.

use std::io;

use thiserror::Error;

use crate::filelist::ListError;

/// Why a tree is not sealed.
#[derive(Debug, Error)]
pub enum SealError {
    /// An entry is not what was signed.
    #[error("entry `{entry}`: {what} is {found}, not the signed {signed}")]
    Differs {
        /// Its path, escaped.
        entry: String,
        /// What differs.
        what: &'static str,
        /// What was signed.
        signed: String,
        /// What is there.
        found: String,
    },
    /// An entry is not there.
    #[error("entry `{entry}` is missing")]
    Missing {
        /// Its path, escaped.
        entry: String,
    },
    /// Something is there that was not signed.
    #[error("entry `{entry}` is there and was not signed")]
    Extra {
        /// Its path, escaped.
        entry: String,
    },
    /// Something is there that the payload deletes.
    #[error("entry `{entry}` should have been deleted")]
    NotDeleted {
        /// Its path, escaped.
        entry: String,
    },
    /// The disk or the file system does not give an entry back.
    #[error("entry `{entry}` cannot be read back: {source}")]
    Read {
        /// Its path, escaped.
        entry: String,
        /// Why not.
        source: io::Error,
    },
    /// The list is not the signed one.
    #[error(transparent)]
    List(#[from] ListError),
    /// The payload deletes more than can be checked in bounded memory.
    #[error("the payload's deletions cannot all be checked: they concern too many entries")]
    TooManyDeletions,
}

impl SealError {
    pub(super) fn read<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> Self {
        move |source| Self::Read {
            entry: path.escape_ascii().to_string(),
            source: source.into(),
        }
    }

    pub(super) fn missing(path: &[u8]) -> Self {
        Self::Missing {
            entry: path.escape_ascii().to_string(),
        }
    }

    pub(super) fn extra(path: &[u8]) -> Self {
        Self::Extra {
            entry: path.escape_ascii().to_string(),
        }
    }
}
