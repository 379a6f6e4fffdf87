//! The life cycle: the only place where a [`Journal`] changes, as pure functions.
//!
//! ```text
//! Idle --stage--> Staged --switch--> Switched --reboot--> Trial --confirm--> Idle (roles swapped)
//!                  | discard           | cancel             | health check fails, deadline, crash, operator
//!                  v                   v                    v
//!                 Idle                Idle               FellBack(reason) --> Idle
//! ```

use std::collections::BTreeMap;

use crate::journal::{
    Content, DomainResult, Ended, FailedRelease, Journal, Kind, Outcome, Phase, Reason, Upgrade,
};
use crate::slot::Slot;

/// What a boot of `booted` means, given the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// Nothing is in progress, or only a release that is staged.
    Ordinary,
    /// A stage did not end: the power was cut, or the node rebooted under it.
    StageCutShort(Reason),
    /// The switched slot has come up: judge it. Also when a trial boots once more.
    Trial,
    /// A rollback has arrived.
    RolledBack,
    /// The trial is over and the node is back; why.
    FellBack(Reason),
    /// A rollback did not take; the node still runs what it should have left.
    RollbackMissed(Reason),
}

impl Journal {
    /// An upgrade or rollback begins. An upgrade writes its target slot, which from now on holds
    /// nothing bootable.
    pub fn begin(&mut self, upgrade: Upgrade) {
        if upgrade.kind == Kind::Upgrade {
            self.set_content(upgrade.target, Content::Nothing);
        }
        self.upgrade = Some(upgrade);
    }

    /// The slot is written, sealed and flushed.
    pub fn staged(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.phase = Phase::Staged;
            let (target, to) = (upgrade.target, upgrade.to.clone());
            self.set_content(target, Content::Release(to));
        }
    }

    /// The next boot will be the target's. Written after the firmware is told: a boot of a staged
    /// target is a trial all the same, but a power cut in between must not look as if the target
    /// had been tried and had never come up.
    pub fn switched(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.phase = Phase::Switched;
        }
    }

    /// The switch is taken back; the slot stays staged.
    pub fn switch_cancelled(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.phase = Phase::Staged;
        }
    }

    /// The upgrade is given up before its trial: what was not staged whole is nothing; what was
    /// stays staged, and a later `switch` can go on from there.
    pub fn given_up(&mut self, reason: Reason) {
        match self.upgrade.as_mut().map(|upgrade| upgrade.phase) {
            Some(Phase::Staging) => self.end(Outcome::Abandoned(reason)),
            Some(Phase::Staged | Phase::Switched) => self.end_staged(Outcome::Abandoned(reason)),
            Some(Phase::Trial) | None => {}
        }
    }

    /// The staged release is thrown away: its slot holds nothing.
    pub fn discarded(&mut self) {
        if let Some(upgrade) = &self.upgrade {
            let target = upgrade.target;
            self.set_content(target, Content::Nothing);
        }
        self.end(Outcome::Abandoned(Reason {
            domain: None,
            message: "discarded by an operator".to_owned(),
            release_at_fault: false,
        }));
    }

    /// What it means that `booted` has booted.
    pub fn judge_boot(&self, booted: Slot) -> Boot {
        let Some(upgrade) = &self.upgrade else {
            return Boot::Ordinary;
        };
        match (upgrade.phase, upgrade.kind, booted == upgrade.target) {
            (Phase::Staging, _, _) => Boot::StageCutShort(Reason {
                domain: None,
                message: format!("the stage of {} was cut short", upgrade.to.version),
                release_at_fault: false,
            }),
            (Phase::Staged, _, false) => Boot::Ordinary,
            (_, Kind::Rollback, true) => Boot::RolledBack,
            (_, Kind::Rollback, false) => Boot::RollbackMissed(Reason {
                domain: None,
                message: format!(
                    "slot {} with {} did not boot; the firmware went on to slot {booted}",
                    upgrade.target, upgrade.to.version
                ),
                release_at_fault: false,
            }),
            // A reason was written before the reboot: even if the target boots again, it is over.
            (_, Kind::Upgrade, false) if upgrade.giving_up.is_some() => Boot::FellBack(
                upgrade
                    .giving_up
                    .clone()
                    .unwrap_or_else(|| never_came_up(upgrade)),
            ),
            (Phase::Switched, Kind::Upgrade, false) => Boot::FellBack(never_came_up(upgrade)),
            (Phase::Trial, Kind::Upgrade, false) => Boot::FellBack(Reason {
                domain: None,
                message: format!(
                    "the trial of {} was cut short: power loss, reset or crash before a verdict",
                    upgrade.to.version
                ),
                release_at_fault: false,
            }),
            (_, Kind::Upgrade, true) => Boot::Trial,
        }
    }

    /// The new dom0 is up; its trial begins.
    pub fn trial_began(&mut self, domains: BTreeMap<String, DomainResult>) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.phase = Phase::Trial;
            upgrade.domains = domains;
        }
    }

    /// The trial is lost: recorded before the reboot. The first reason stays.
    pub fn give_up(&mut self, reason: Reason) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.giving_up.get_or_insert(reason);
        }
    }

    /// The trial is won: the roles swap.
    pub fn confirmed(&mut self, floor: &str) {
        if let Some(upgrade) = &self.upgrade {
            let (target, version) = (upgrade.target, upgrade.to.version.clone());
            self.confirmed = target;
            self.signed_at = self.signed_at.max(upgrade.signed_at);
            self.failed
                .retain(|failed| failed.release.version != version);
            if xupg_images::version::compare(floor, &self.floor).is_gt() {
                self.floor = floor.to_owned();
            }
        }
        self.end(Outcome::Confirmed);
    }

    /// The node is back on the slot it came from. A release that is to blame is remembered as
    /// failed and its slot holds nothing any more; any other is still staged, to be tried again.
    pub fn fell_back(&mut self, reason: Reason) {
        if !reason.release_at_fault {
            self.end_staged(Outcome::FellBack(reason));
        } else if let Some(upgrade) = self.upgrade.clone() {
            self.end(Outcome::FellBack(reason.clone()));
            self.set_content(upgrade.target, Content::Nothing);
            self.failed.retain(|failed| failed.release != upgrade.to);
            self.failed.push(FailedRelease {
                release: upgrade.to,
                reason,
            });
        }
    }

    /// The rollback did not take: the node still runs what it should have left.
    pub fn rollback_missed(&mut self, booted: Slot, reason: Reason) {
        self.confirmed = booted;
        self.end(Outcome::FellBack(reason));
    }

    /// The rollback has arrived.
    pub fn rolled_back(&mut self) {
        if let Some(upgrade) = &self.upgrade {
            self.confirmed = upgrade.target;
        }
        self.end(Outcome::RolledBack);
    }

    /// The attempt has ended, and its release is still staged.
    fn end_staged(&mut self, outcome: Outcome) {
        let upgrade = self.upgrade.clone();
        self.end(outcome);
        self.upgrade = upgrade.map(|upgrade| Upgrade {
            phase: Phase::Staged,
            giving_up: None,
            domains: BTreeMap::new(),
            ..upgrade
        });
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(upgrade) = self.upgrade.take() {
            self.last = Some(Ended {
                txn: upgrade.txn,
                kind: upgrade.kind,
                from: upgrade.from,
                to: upgrade.to.version,
                outcome,
                domains: upgrade.domains,
            });
        }
    }
}

fn never_came_up(upgrade: &Upgrade) -> Reason {
    Reason {
        domain: Some("dom0".to_owned()),
        message: format!(
            "{} in slot {} never came up: its hypervisor or dom0 crashed or hung before xupg \
             started, and the firmware went back",
            upgrade.to.version, upgrade.target
        ),
        release_at_fault: true,
    }
}
