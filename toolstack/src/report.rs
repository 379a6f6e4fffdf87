//! What happens, as values: the events of a run and the status of a node, with a schema number.

use serde::Serialize;

use crate::journal::{Ended, FailedRelease, Journal, Kind, Outcome, Phase, Release};
use crate::plan::Step;
use crate::slot::Slot;

/// The schema of events and status.
pub const SCHEMA: u32 = 1;

/// Something that happened while a plan was carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step of the plan begins.
    StepBegan {
        /// Which one.
        step: Step,
        /// In words.
        text: String,
    },
    /// It is done.
    StepEnded {
        /// Which one.
        step: Step,
        /// How long it took.
        seconds: f64,
    },
    /// How far a domain has come.
    Domain {
        /// Whose.
        domain: String,
        /// `staging`, `sealing`, `quiescing`, `stopped`, `starting`, `running`, `done`, ...
        state: String,
        /// Percent of that, where known.
        percent: Option<u8>,
        /// In words.
        message: String,
    },
    /// How far the release has come as a whole.
    Progress {
        /// Percent.
        percent: u8,
        /// Seconds still to go, where known.
        eta_s: Option<u64>,
    },
    /// The journal has changed.
    Recorded {
        /// To this.
        #[serde(skip)]
        journal: Box<Journal>,
    },
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The slot that is live now.
    pub active: Slot,
    /// What it holds.
    pub release: Option<Release>,
    /// The other slot's release; nothing where it cannot be booted.
    pub standby: Option<Release>,
    /// The slot the next boot will be.
    pub next: Option<Slot>,
    /// The slot of the last confirmed release.
    pub confirmed: Slot,
    /// `idle`, `staging`, `staged`, `switched`, `trial`.
    pub state: &'static str,
    /// The upgrade or rollback in progress.
    pub upgrade: Option<crate::journal::Upgrade>,
    /// How the last one ended.
    pub last: Option<Ended>,
    /// No release older than this is accepted.
    pub floor: String,
    /// Releases that failed their trial.
    pub failed: Vec<FailedRelease>,
}

impl Status {
    /// The status of a node that booted `booted` and will boot `next`.
    pub fn of(journal: &Journal, booted: Slot, next: Option<Slot>) -> Self {
        Self {
            schema: SCHEMA,
            active: booted,
            release: journal.release(booted).cloned(),
            standby: journal.release(!booted).cloned(),
            next,
            confirmed: journal.confirmed,
            state: state_word(journal),
            upgrade: journal.upgrade.clone(),
            last: journal.last.clone(),
            floor: journal.floor.clone(),
            failed: journal.failed.clone(),
        }
    }

    /// Where the node stands, in one line, as every failure ends with.
    pub fn standing(&self) -> String {
        let version = |release: &Option<Release>| {
            release
                .as_ref()
                .map_or("unknown".to_owned(), |release| release.version.clone())
        };
        let next = self
            .next
            .map_or("unknown".to_owned(), |slot| slot.to_string());
        let standby = match &self.standby {
            Some(release) => format!("standby {} holds {}", !self.active, release.version),
            None => format!("standby {} is not bootable", !self.active),
        };
        let safe = match self.next {
            Some(slot) if slot == self.active || self.standby.is_some() => "a reboot is safe",
            _ => "do not reboot before the boot order is mended",
        };
        format!(
            "active {} ({}), next boot {next}; {standby}; {safe}",
            self.active,
            version(&self.release)
        )
    }
}

/// The life cycle's word for where `journal` stands.
pub fn state_word(journal: &Journal) -> &'static str {
    match journal.upgrade.as_ref().map(|upgrade| upgrade.phase) {
        None => "idle",
        Some(Phase::Staging) => "staging",
        Some(Phase::Staged) => "staged",
        Some(Phase::Switched) => "switched",
        Some(Phase::Trial) => "trial",
    }
}

/// How the last upgrade or rollback ended, in one line.
pub fn ending(ended: &Ended) -> String {
    let what = match ended.kind {
        Kind::Upgrade => "upgrade",
        Kind::Rollback => "rollback",
    };
    let head = format!("{what} {} -> {}", ended.from, ended.to);
    match &ended.outcome {
        Outcome::Confirmed => format!("{head}: confirmed"),
        Outcome::RolledBack => format!("{head}: done"),
        Outcome::FellBack(reason) => format!("{head}: fell back: {reason}"),
        Outcome::Abandoned(reason) => format!("{head}: given up: {reason}"),
    }
}

impl std::fmt::Display for crate::journal::Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(domain) = &self.domain {
            write!(f, "`{domain}`: ")?;
        }
        f.write_str(&self.message)
    }
}
