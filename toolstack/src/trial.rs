//! What happens after a reboot: judge what has booted, start the domUs, and in a trial confirm
//! the release or go back. Run by the boot service as `xupg boot`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use xupg_hooks::{Phase as HookPhase, State};
use xupg_images::manifest::{Manifest, OnTimeout, Payload};

use crate::error::{Doing, Error, Result};
use crate::journal::{DomainResult, Journal, Reason, Verdict};
use crate::ports::{Attempt, Ports};
use crate::report::Event;
use crate::slot::Slot;
use crate::state::Boot;

/// How often an agent's answer is read.
const POLL: Duration = Duration::from_secs(1);

/// What dom0's hook gets for the `boot` and `rollback` phases.
const DOM0_HOOK: Duration = Duration::from_secs(900);

/// How a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Booted {
    /// The domUs run; nothing else was to be done. Those that did not start, with the cause.
    Ordinary(Vec<(String, String)>),
    /// The trial was good.
    Confirmed,
    /// The trial was lost; the node is rebooting.
    GivingUp(Reason),
    /// The node is back on the slot it came from.
    Back(Reason),
    /// The rollback has arrived.
    RolledBack,
}

/// Brings the node up after a boot of `booted`, whose release `manifest` describes.
///
/// # Errors
/// Where the journal or the firmware cannot be read or written. In a trial the caller must
/// then reboot: the firmware goes back by itself.
pub fn boot(booted: Slot, manifest: &Manifest, ports: &mut Ports<'_>) -> Result<Booted> {
    let mut journal = ports.journal.load()?;
    (ports.events)(Event::Recorded {
        journal: Box::new(journal.clone()),
    });
    match journal.judge_boot(booted) {
        Boot::Ordinary => {
            let slot = journal.confirmed;
            keep(slot, booted, manifest, &journal, ports).map(Booted::Ordinary)
        }
        Boot::StageCutShort(reason) => {
            journal.given_up(reason);
            let slot = journal.confirmed;
            keep(slot, booted, manifest, &journal, ports).map(Booted::Ordinary)
        }
        Boot::FellBack(reason) => {
            journal.fell_back(reason.clone());
            keep(booted, booted, manifest, &journal, ports)?;
            Ok(Booted::Back(reason))
        }
        Boot::RollbackMissed(reason) => {
            journal.rollback_missed(booted, reason.clone());
            keep(booted, booted, manifest, &journal, ports)?;
            Ok(Booted::Back(reason))
        }
        Boot::RolledBack => {
            let kept = set_default(booted, booted, &journal, ports);
            let attempt = attempt_of(&journal)?;
            let flag = attempt.flag(HookPhase::Rollback, DOM0_HOOK);
            if let Err(error) = ports.hooks.run(Path::new("/"), booted, &flag, ports.events) {
                // A person wants this release now; its hook cannot keep them from it.
                tell(ports, "dom0", "failed", &error.because());
            }
            start_all(manifest, Some((&attempt, HookPhase::Rollback)), ports);
            kept?;
            // Last: after a power cut the hooks get their chance again.
            journal.rolled_back();
            ports.record(&journal)?;
            Ok(Booted::RolledBack)
        }
        Boot::Trial => trial(&mut journal, booted, manifest, ports),
    }
}

/// Makes `slot` the default, for the firmware and on record, and starts the domUs, which run even
/// where the firmware or the state partition takes no writes. Returns those that did not start.
fn keep(
    slot: Slot,
    booted: Slot,
    manifest: &Manifest,
    journal: &Journal,
    ports: &mut Ports<'_>,
) -> Result<Vec<(String, String)>> {
    let kept = set_default(slot, booted, journal, ports).and_then(|()| ports.record(journal));
    let failed = start_all(manifest, None, ports);
    kept.map(|()| failed)
}

/// The firmware boots `slot` from now on, and never a standby slot without a whole release.
fn set_default(slot: Slot, booted: Slot, journal: &Journal, ports: &mut Ports<'_>) -> Result<()> {
    let forbidden = match journal.release(!booted) {
        None => ports.boot.forbid(!booted),
        Some(_) => Ok(()),
    };
    forbidden
        .and_then(|()| ports.boot.make_default(slot))
        .doing(|| format!("making sure that slot {slot} is the firmware's default"))
}

fn attempt_of(journal: &Journal) -> Result<Attempt> {
    match &journal.upgrade {
        Some(upgrade) => Attempt::new(&upgrade.txn, &upgrade.from, &upgrade.to.version),
        None => Err(Error::failed("no upgrade is in progress")),
    }
}

/// The domUs of a release in the order of their start.
pub fn start_order(manifest: &Manifest) -> Vec<&Payload> {
    let mut domus: Vec<_> = manifest
        .payloads
        .iter()
        .filter(|p| p.domu.is_some())
        .collect();
    domus.sort_by_key(|p| (p.domu.as_ref().map_or(0, |domu| domu.order), &p.domain));
    domus
}

/// Starts every domU that does not run yet. One that fails does not keep the others from it.
fn start_all(
    manifest: &Manifest,
    purpose: Option<(&Attempt, HookPhase)>,
    ports: &mut Ports<'_>,
) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    for payload in start_order(manifest) {
        if let Err(cause) = start(payload, purpose, ports) {
            failed.push((payload.domain.clone(), cause));
        }
    }
    failed
}

fn start(
    payload: &Payload,
    purpose: Option<(&Attempt, HookPhase)>,
    ports: &mut Ports<'_>,
) -> std::result::Result<(), String> {
    let name = &payload.domain;
    let Some(domu) = &payload.domu else {
        return Ok(());
    };
    let limit = Duration::from_secs(domu.health_s.into());
    let flag = purpose.map(|(attempt, phase)| attempt.flag(phase, limit));
    tell(ports, name, "starting", "");
    let started = ports.domains.start(name, &domu.config, flag.as_ref());
    match started {
        Ok(()) => {
            tell(ports, name, "running", "");
            Ok(())
        }
        Err(error) => {
            let cause = format!("it did not start: {}", error.because());
            tell(ports, name, "failed", &cause);
            Err(cause)
        }
    }
}

/// Judges the release that has come up, and confirms it or goes back.
fn trial(
    journal: &mut Journal,
    booted: Slot,
    manifest: &Manifest,
    ports: &mut Ports<'_>,
) -> Result<Booted> {
    // Given up before, and yet booted again: over is over.
    if let Some(reason) = journal.upgrade.as_ref().and_then(|u| u.giving_up.clone()) {
        return go_back(journal, booted, manifest, reason, ports);
    }
    let attempt = attempt_of(journal)?;
    // One that was left for an earlier trial does not count.
    ports.journal.take_verdict();
    journal.trial_began(pending(manifest));
    ports.record(journal)?;

    let flag = attempt.flag(HookPhase::Boot, DOM0_HOOK);
    match ports.hooks.run(Path::new("/"), booted, &flag, ports.events) {
        Ok(state) => settle(journal, "dom0", state, "", ports)?,
        Err(error) => {
            settle(journal, "dom0", "failed", &error.because(), ports)?;
            return go_back(
                journal,
                booted,
                manifest,
                culprit("dom0", &error.because()),
                ports,
            );
        }
    }
    let mut waiting = Vec::new();
    for payload in start_order(manifest) {
        let Some(domu) = &payload.domu else { continue };
        match start(payload, Some((&attempt, HookPhase::Boot)), ports) {
            Ok(()) => {
                settle(journal, &payload.domain, "running", "", ports)?;
                let deadline = ports.domains.clock() + f64::from(domu.health_s);
                waiting.push((
                    payload.domain.clone(),
                    domu.mandatory,
                    domu.health_s,
                    deadline,
                ));
            }
            Err(cause) => {
                settle(journal, &payload.domain, "failed", &cause, ports)?;
                if domu.mandatory {
                    return go_back(
                        journal,
                        booted,
                        manifest,
                        culprit(&payload.domain, &cause),
                        ports,
                    );
                }
            }
        }
    }
    let mut confirmed = false;
    loop {
        let verdict = ports.journal.take_verdict();
        if !confirmed && verdict == Some(Verdict::GoBack) {
            return go_back(
                journal,
                booted,
                manifest,
                Reason::operator_went_back(),
                ports,
            );
        }
        let all_good = waiting.iter().all(|(_, mandatory, _, _)| !mandatory);
        if !confirmed && (all_good || verdict == Some(Verdict::Confirm)) {
            confirm(journal, booted, manifest, ports)?;
            confirmed = true;
        }
        if waiting.is_empty() {
            return Ok(Booted::Confirmed);
        }
        let mut still = Vec::new();
        for (domain, mandatory, health_s, deadline) in std::mem::take(&mut waiting) {
            let (state, message) = match look(&domain, &attempt, deadline, health_s, ports)? {
                Look::Waiting => {
                    still.push((domain, mandatory, health_s, deadline));
                    continue;
                }
                Look::Settled(state, message) => (state, message),
            };
            settle(journal, &domain, state, &message, ports)?;
            if mandatory && !confirmed && matches!(state, "failed" | "silent") {
                return go_back(journal, booted, manifest, culprit(&domain, &message), ports);
            }
        }
        waiting = still;
        if !waiting.is_empty() {
            ports.domains.wait(POLL);
        }
    }
}

enum Look {
    Waiting,
    Settled(&'static str, String),
}

/// One look at a domU in a trial.
fn look(
    domain: &str,
    attempt: &Attempt,
    deadline: f64,
    health_s: u32,
    ports: &mut Ports<'_>,
) -> Result<Look> {
    if !ports.domains.is_alive(domain)? {
        return Ok(Look::Settled(
            "failed",
            "it died before it reported".to_owned(),
        ));
    }
    let flag = attempt.flag(HookPhase::Boot, Duration::from_secs(health_s.into()));
    if let Some(answer) = ports.domains.answer(domain, &flag)? {
        let message = answer.progress.message;
        match answer.state {
            State::Done => return Ok(Look::Settled("done", message)),
            State::None => return Ok(Look::Settled("none", message)),
            State::Failed => {
                return Ok(Look::Settled(
                    "failed",
                    format!("its hook failed: {message}"),
                ));
            }
            State::Refused => {
                return Ok(Look::Settled(
                    "failed",
                    format!("its hook refused: {message}"),
                ));
            }
            State::Running | State::Retry => (ports.events)(Event::Domain {
                domain: domain.to_owned(),
                state: "running".to_owned(),
                percent: Some(answer.progress.percent),
                message,
            }),
        }
    }
    Ok(if ports.domains.clock() >= deadline {
        Look::Settled(
            "silent",
            format!("it has not reported good within {health_s} s"),
        )
    } else {
        Look::Waiting
    })
}

/// The release is good: the firmware first, so that whatever is cut short, the next boot is
/// this slot and confirms again.
///
/// # Errors
/// Where the firmware or the journal cannot be written.
pub fn confirm(
    journal: &mut Journal,
    booted: Slot,
    manifest: &Manifest,
    ports: &mut Ports<'_>,
) -> Result<()> {
    ports
        .boot
        .make_default(booted)
        .doing(|| format!("making slot {booted} the firmware's default"))?;
    journal.confirmed(&manifest.floor);
    ports.record(journal)
}

/// The release is bad: write down why and who, stop the domUs, reboot into the old slot. That is
/// still the firmware's default, unless a confirmation was cut short.
fn go_back(
    journal: &mut Journal,
    booted: Slot,
    manifest: &Manifest,
    reason: Reason,
    ports: &mut Ports<'_>,
) -> Result<Booted> {
    journal.give_up(reason.clone());
    ports.record(journal)?;
    if let Err(error) = ports.boot.make_default(!booted) {
        tell(ports, "dom0", "failed", &error.because());
    }
    for payload in start_order(manifest).into_iter().rev() {
        let Some(domu) = &payload.domu else { continue };
        let name = &payload.domain;
        // One that cannot be seen is stopped all the same: none may be left for xendomains to save.
        if !ports.domains.is_alive(name).unwrap_or(true) {
            continue;
        }
        tell(ports, name, "stopping", "");
        // Their file systems are about to be left behind: the node's way back counts more.
        let limit = match domu.on_timeout {
            OnTimeout::Fail => domu.shutdown_s,
            OnTimeout::Destroy => domu.shutdown_s.min(30),
        };
        let gone = ports
            .domains
            .shutdown(name, Duration::from_secs(limit.into()))
            .unwrap_or(false);
        if !gone && let Err(error) = ports.domains.destroy(name) {
            tell(ports, name, "failed", &error.because());
        }
    }
    ports.power.reboot()?;
    Ok(Booted::GivingUp(reason))
}

fn culprit(domain: &str, message: &str) -> Reason {
    Reason {
        domain: Some(domain.to_owned()),
        message: message.to_owned(),
        release_at_fault: true,
    }
}

fn pending(manifest: &Manifest) -> BTreeMap<String, DomainResult> {
    let result = |mandatory| DomainResult {
        mandatory,
        state: "pending".to_owned(),
        message: String::new(),
    };
    manifest
        .payloads
        .iter()
        .map(|p| {
            (
                p.domain.clone(),
                result(p.domu.as_ref().is_none_or(|domu| domu.mandatory)),
            )
        })
        .collect()
}

/// Records how a domain has ended, also when the release is confirmed already.
fn settle(
    journal: &mut Journal,
    domain: &str,
    state: &str,
    message: &str,
    ports: &Ports<'_>,
) -> Result<()> {
    let domains = match (&mut journal.upgrade, &mut journal.last) {
        (Some(upgrade), _) => &mut upgrade.domains,
        (None, Some(last)) => &mut last.domains,
        (None, None) => return Ok(()),
    };
    if let Some(result) = domains.get_mut(domain) {
        result.state = state.to_owned();
        result.message = message.to_owned();
    }
    tell(ports, domain, state, message);
    ports.record(journal)
}

fn tell(ports: &Ports<'_>, domain: &str, state: &str, message: &str) {
    (ports.events)(Event::Domain {
        domain: domain.to_owned(),
        state: state.to_owned(),
        percent: None,
        message: message.to_owned(),
    });
}
