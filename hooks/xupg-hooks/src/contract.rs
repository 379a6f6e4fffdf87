//! The contract between xupg and the author of a hook: where the hook lies, when and how it is
//! called, what it may answer. The README of this room says the same in a table.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::text::Token;

/// The hook's place in every domain's file system, dom0's included.
pub const HOOK_PATH: &str = "/usr/lib/xupg/hook";

/// Exit code: done.
pub const EXIT_DONE: i32 = 0;
/// Exit code: not now, ask again later. The number is `EX_TEMPFAIL` of `sysexits.h`.
pub const EXIT_RETRY_LATER: i32 = 75;
/// Exit code: this domain must not be upgraded (now, or to this release). The number is
/// `EX_NOPERM` of `sysexits.h`. Every code but these three means: failed.
pub const EXIT_REFUSED: i32 = 77;

/// How long a hook may run when nobody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The hook's `PATH`.
pub const PATH_VARIABLE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// When a hook is called. The order is that of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// In the domU's old system, before it is shut down: finish, flush, or refuse.
    Quiesce,
    /// dom0 only: in the freshly written standby root, before it is ever booted.
    Stage,
    /// In the new system, on its first boot: complete the upgrade.
    Boot,
    /// In the old system, when it has been put back: undo what the new one left behind outside.
    Rollback,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 4] = [Self::Quiesce, Self::Stage, Self::Boot, Self::Rollback];

    /// The name in `XUPG_PHASE` and in xenstore.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quiesce => "quiesce",
            Self::Stage => "stage",
            Self::Boot => "boot",
            Self::Rollback => "rollback",
        }
    }

    /// The phase of that exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a hook is told, as `XUPG_*` variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `XUPG_PHASE`.
    pub phase: Phase,
    /// `XUPG_DOMAIN`: `dom0`, or the domU's name in xl.
    pub domain: String,
    /// `XUPG_TXN`: the upgrade's transaction. The same word means the same upgrade.
    pub txn: Token,
    /// `XUPG_RELEASE`: the release that the node is going to (`rollback`: the one put back).
    pub release: Token,
    /// `XUPG_FROM_RELEASE`: the release that the node comes from. Unset when unknown.
    pub from_release: Option<Token>,
    /// `XUPG_SLOT`, dom0 only: the slot that the hook is about, `a` or `b`.
    pub slot: Option<char>,
    /// `XUPG_ROOT`: where the new root is mounted, for a hook that is run outside of it. With
    /// [`crate::HookRun::root`] the hook sees that root as `/` and this stays unset.
    pub root: Option<PathBuf>,
}

impl Facts {
    /// The facts as environment variables. A fact that is unknown has no variable.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("XUPG_PHASE", self.phase.as_str().to_owned()),
            ("XUPG_DOMAIN", self.domain.clone()),
            ("XUPG_TXN", self.txn.as_str().to_owned()),
            ("XUPG_RELEASE", self.release.as_str().to_owned()),
        ];
        if let Some(release) = &self.from_release {
            variables.push(("XUPG_FROM_RELEASE", release.as_str().to_owned()));
        }
        if let Some(slot) = self.slot {
            variables.push(("XUPG_SLOT", slot.to_string()));
        }
        if let Some(root) = &self.root {
            variables.push(("XUPG_ROOT", root.display().to_string()));
        }
        variables
    }
}

/// One `progress: N message` line of a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// Printable ASCII, at most [`crate::text::MESSAGE_MAX`] bytes, possibly empty.
    pub message: String,
}

impl Progress {
    /// Reads a line of a hook's output (without its line end). Anything that is not exactly
    /// `progress: N message` with N from 0 to 100 is ordinary output: `None`.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"progress:")?.trim_ascii();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, message) = rest.split_at(digits);
        if digits > 3
            || message
                .first()
                .is_some_and(|byte| !byte.is_ascii_whitespace())
        {
            return None;
        }
        let percent: u8 = std::str::from_utf8(number).ok()?.parse().ok()?;
        (percent <= 100).then(|| Self {
            percent,
            message: crate::text::printable(message),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn phases_are_found_by_their_exact_names() {
        for phase in Phase::ALL {
            assert_eq!(Phase::from_name(phase.as_str()), Some(phase));
        }
        for bad in ["", "Boot", "boot ", "switch"] {
            assert_eq!(Phase::from_name(bad), None);
        }
    }

    #[test]
    fn progress_lines_follow_the_grammar() {
        let read = |line: &str| Progress::from_line(line.as_bytes());
        assert_eq!(
            read("progress: 40 half of it"),
            Some(Progress {
                percent: 40,
                message: "half of it".into()
            })
        );
        assert_eq!(
            read("progress:100"),
            Some(Progress {
                percent: 100,
                message: String::new()
            })
        );
        for bad in [
            "",
            "progress",
            "progress:",
            "progress: x",
            "progress: -1 a",
            "progress: 101 a",
            "progress: 0040 a",
            "progress: 5% done",
            "Progress: 4 a",
            " progress: 4 a",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let line = [b"progress: ".as_slice(), &line].concat();
            if let Some(progress) = Progress::from_line(&line) {
                prop_assert!(progress.percent <= 100);
                prop_assert!(progress.message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
            }
        }
    }
}
