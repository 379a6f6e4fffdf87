//! A real xenstored for tests, on a machine without Xen.
//!
//! [`XenStored::start`] runs the C xenstored of the installed Xen tools on a socket of its own, with a
//! small library preloaded that stands in for the hypervisor. Programs and libraries find it through
//! the environment variable `XENSTORED_PATH`. [`XenStored::guest`] gives a second socket on which the
//! caller *is* a guest: xenstored applies that domain's permissions, quotas and rate limit, and
//! relative paths mean `/local/domain/<domid>/...`.
//!
//! ```no_run
//! # fn main() -> Result<(), xenstored_lab::Error> {
//! let store = xenstored_lab::XenStored::start()?;
//! let guest = store.guest(7)?;
//! // dom0:   XENSTORED_PATH = store.socket_path()
//! // domU 7: XENSTORED_PATH = guest.socket_path()
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod daemon;
mod guest;
mod wire;

use std::io;

pub use daemon::XenStored;
pub use guest::Guest;

/// Why a xenstored, or a guest of it, could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Xen tools are not installed.
    #[error("no xenstored in /usr/lib/xen-*/bin; on Debian: apt-get install xen-utils-4.17")]
    NotInstalled,
    /// It started, but did not answer on its socket.
    #[error("xenstored does not answer; it said: {output}")]
    NoAnswer {
        /// What it wrote to its standard output and error.
        output: String,
    },
    /// xenstored refused a request that sets up a guest.
    #[error("xenstored answers {answer} to {request}")]
    Refused {
        /// What was asked, in words.
        request: String,
        /// xenstored's error name, such as `EINVAL`.
        answer: String,
    },
    /// The operating system failed a step.
    #[error("cannot {doing}")]
    Io {
        /// The step, in words.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
