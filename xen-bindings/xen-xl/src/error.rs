//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why something could not be done with a domain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libxl can not reach a hypervisor.
    #[error("libxl finds no Xen (is this a dom0, with its own version's libraries?): {reason}")]
    Unavailable {
        /// libxl's error name.
        reason: String,
    },
    /// The domain is not there any more, or its domid is another's by now.
    #[error("domain {domain} is not there any more")]
    Gone {
        /// Name or domid.
        domain: String,
    },
    /// libxl did not answer in time. What was asked may still happen.
    #[error("cannot {doing}: libxl does not answer within {} s", .deadline.as_secs_f32())]
    Timeout {
        /// What was asked, in words.
        doing: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// libxl reports an error.
    #[error("cannot {doing}: libxl says {reason}")]
    Libxl {
        /// What was asked, in words.
        doing: String,
        /// libxl's error name; its log has more.
        reason: String,
    },
    /// libxl has lost its footing ("disaster"); the next call starts it afresh.
    #[error("cannot {doing}: libxl has failed, see its log")]
    Broken {
        /// What was asked, in words.
        doing: String,
    },
    /// `xl create` failed.
    #[error("xl create {} failed ({status}): {output}", .config.display())]
    Create {
        /// The configuration file.
        config: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said, at most its last 4 KiB.
        output: String,
    },
    /// `xl create` did not come to an end in time and was killed.
    #[error("xl create {} does not end within {} s: {output}", .config.display(), .deadline.as_secs_f32())]
    CreateTimeout {
        /// The configuration file.
        config: PathBuf,
        /// How long was waited.
        deadline: Duration,
        /// What it said, at most its last 4 KiB.
        output: String,
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
