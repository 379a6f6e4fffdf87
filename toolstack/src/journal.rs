//! The journal: the crash-safe record of what each slot holds and of the upgrade in progress.
//!
//! One small file on `xupg-state`, the only partition both slots share, replaced whole: temporary
//! file, fsync, rename, fsync of the directory, read again. The firmware's `BootOrder` decides what
//! boots; the journal says why.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, OrFailed, Result};
use crate::ports::JournalStore;
use crate::slot::Slot;

/// The schema this program writes and the only one it reads.
pub const SCHEMA: u32 = 1;

/// Everything the node remembers across a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The slot of the last confirmed release: what the firmware's default shall be.
    pub confirmed: Slot,
    /// What slot A holds.
    pub a: Content,
    /// What slot B holds.
    pub b: Content,
    /// No release older than this is accepted: the highest floor of a confirmed release.
    pub floor: String,
    /// The newest signing time of a confirmed release, in seconds since 1970: no certificate is
    /// judged by an earlier time.
    pub signed_at: u64,
    /// The upgrade or rollback in progress.
    pub upgrade: Option<Upgrade>,
    /// How the last one ended.
    pub last: Option<Ended>,
    /// Releases that failed their trial and are not tried again without `--force`.
    pub failed: Vec<FailedRelease>,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "holds", rename_all = "snake_case")]
pub enum Content {
    /// Nothing that may be booted: empty, or a stage that did not end.
    Nothing,
    /// A whole, sealed release.
    Release(Release),
}

/// A release, by name and by the digest of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The version.
    pub version: String,
    /// SHA-256 of `manifest.json`, in hex.
    pub manifest: String,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To a new release.
    Upgrade,
    /// A person chose to go back.
    Rollback,
}

/// How far it has come. `Idle` is the absence of an [`Upgrade`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The standby slot is being written; it holds nothing bootable.
    Staging,
    /// The standby slot holds the sealed release; nothing that boots has changed.
    Staged,
    /// The next boot is the standby slot's, once.
    Switched,
    /// The new dom0 has come up and is being judged.
    Trial,
}

/// The upgrade or rollback in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// Names this attempt to every agent and hook.
    pub txn: String,
    /// Upgrade or rollback.
    pub kind: Kind,
    /// The release it leads to.
    pub to: Release,
    /// The release it began from.
    pub from: String,
    /// The slot it leads to.
    pub target: Slot,
    /// How far it has come.
    pub phase: Phase,
    /// Seconds since 1970, by the clock of the node.
    pub started: u64,
    /// The newest signing time of the bundle, in seconds since 1970.
    pub signed_at: u64,
    /// Why the trial is being given up; written before the reboot that ends it.
    pub giving_up: Option<Reason>,
    /// Each domain's part in it.
    pub domains: BTreeMap<String, DomainResult>,
}

/// One domain's part in an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainResult {
    /// A confirmation needs it.
    pub mandatory: bool,
    /// `pending`, `running`, `done`, `none` (no hook), `failed`, `silent`.
    pub state: String,
    /// What its hook last said.
    pub message: String,
}

/// Why a trial ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The domain at fault, where one is known.
    pub domain: Option<String>,
    /// One line.
    pub message: String,
    /// Whether the release is to blame: a power cut or an operator's reboot is not its fault.
    pub release_at_fault: bool,
}

impl Reason {
    /// A person ended the trial.
    pub fn operator_went_back() -> Self {
        Self {
            domain: None,
            message: "an operator went back during the trial".to_owned(),
            release_at_fault: false,
        }
    }
}

/// How an upgrade or rollback ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The attempt.
    pub txn: String,
    /// Upgrade or rollback.
    pub kind: Kind,
    /// Where it came from.
    pub from: String,
    /// Where it led, or should have led.
    pub to: String,
    /// The end.
    pub outcome: Outcome,
    /// Each domain's part.
    pub domains: BTreeMap<String, DomainResult>,
}

/// The end of an upgrade or rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The trial was good; the roles have swapped.
    Confirmed,
    /// A person went back, and the node is back.
    RolledBack,
    /// The firmware or xupg went back by itself.
    FellBack(Reason),
    /// Given up before the switch; the active slot never stopped being the next.
    Abandoned(Reason),
}

/// A release that is not tried again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRelease {
    /// The release.
    pub release: Release,
    /// Why.
    pub reason: Reason,
}

impl Journal {
    /// A node that `xupg install` has just laid out.
    pub fn installed(slot: Slot, release: Release, floor: String, signed_at: u64) -> Self {
        let (a, b) = match slot {
            Slot::A => (Content::Release(release), Content::Nothing),
            Slot::B => (Content::Nothing, Content::Release(release)),
        };
        Self {
            schema: SCHEMA,
            confirmed: slot,
            a,
            b,
            floor,
            signed_at,
            upgrade: None,
            last: None,
            failed: Vec::new(),
        }
    }

    /// What `slot` holds.
    pub fn content(&self, slot: Slot) -> &Content {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// The release that `slot` holds.
    pub fn release(&self, slot: Slot) -> Option<&Release> {
        match self.content(slot) {
            Content::Release(release) => Some(release),
            Content::Nothing => None,
        }
    }

    /// Records what `slot` holds.
    pub fn set_content(&mut self, slot: Slot, content: Content) {
        match slot {
            Slot::A => self.a = content,
            Slot::B => self.b = content,
        }
    }
}

/// What an operator decides about a running trial, over the head of its health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep the release.
    Confirm,
    /// Go back.
    GoBack,
}

/// Where the journal lives.
#[derive(Debug, Clone)]
pub struct JournalFile {
    path: PathBuf,
}

impl JournalFile {
    /// The journal in the mounted state partition `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("journal.json"),
        }
    }

    /// Reads the journal.
    ///
    /// # Errors
    /// Where there is none (not a node, or the state partition is not mounted), or it is not one.
    pub fn load(&self) -> Result<Journal> {
        let doing = || format!("reading the journal {}", self.path.display());
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::refused("there is no journal").doing(doing()).hint(
                    "is this a node laid out by `xupg install`, and is the state partition mounted?",
                ));
            }
            other => other.or_failed(doing)?,
        };
        let journal: Journal = serde_json::from_slice(&bytes).or_failed(doing)?;
        if journal.schema != SCHEMA {
            return Err(Error::refused(format!(
                "it has schema {}, this program knows {SCHEMA}",
                journal.schema
            ))
            .doing(doing()));
        }
        Ok(journal)
    }

    /// Replaces the journal by `journal`, so that a power cut leaves the old or the new one.
    ///
    /// # Errors
    /// Where a write fails or does not read back.
    pub fn save(&self, journal: &Journal) -> Result<()> {
        let doing = || format!("writing the journal {}", self.path.display());
        let mut bytes = serde_json::to_vec_pretty(journal).or_failed(doing)?;
        bytes.push(b'\n');
        replace_file(&self.path, &bytes).or_failed(doing)
    }
}

impl JournalFile {
    fn verdict_path(&self) -> PathBuf {
        self.path.with_file_name("verdict")
    }

    /// Leaves a verdict for the `xupg boot` that holds the node's lock during a trial.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn leave_verdict(&self, verdict: Verdict) -> Result<()> {
        let word = match verdict {
            Verdict::Confirm => "confirm",
            Verdict::GoBack => "go back",
        };
        replace_file(&self.verdict_path(), word.as_bytes())
            .or_failed(|| format!("writing {}", self.verdict_path().display()))
    }
}

impl JournalStore for JournalFile {
    fn load(&self) -> Result<Journal> {
        Self::load(self)
    }

    fn save(&self, journal: &Journal) -> Result<()> {
        Self::save(self, journal)
    }

    fn take_verdict(&self) -> Option<Verdict> {
        let path = self.verdict_path();
        let word = fs::read(&path).ok()?;
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("{} stays: {error}", path.display());
        }
        match word.as_slice() {
            b"confirm" => Some(Verdict::Confirm),
            b"go back" => Some(Verdict::GoBack),
            _ => None,
        }
    }
}

/// Replaces the file at `path` whole and durably, and reads it again.
///
/// # Errors
/// Any of the writes, or bytes that do not read back.
pub fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()?;
    if fs::read(path)? != bytes {
        return Err(std::io::Error::other("what was written does not read back"));
    }
    Ok(())
}
