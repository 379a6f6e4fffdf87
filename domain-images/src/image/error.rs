//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an image cannot be made, attached, checked or mounted.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A program of the system failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said, shortened.
        output: String,
    },
    /// The kernel refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// A verb, such as `mount`.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The image is not one that may be used.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// e2fsck found errors that it does not repair by itself.
    #[error("the file system in {} is damaged (e2fsck exit code {code}): {output}", path.display())]
    Damaged {
        /// The image or its device.
        path: PathBuf,
        /// e2fsck's exit code.
        code: i32,
        /// What e2fsck said, shortened.
        output: String,
    },
    /// A loop device is still there after it was given back.
    #[error("{} is still attached", .0.display())]
    StillAttached(PathBuf),
}

impl ImageError {
    /// For `map_err`: an I/O error with what was done to what.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
