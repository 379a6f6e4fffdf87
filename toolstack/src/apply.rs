//! The upgrade, step by step: the only loop that changes the world before the reboot. What comes
//! after it is in [`crate::trial`].

use std::collections::BTreeMap;
use std::time::Duration;

use xupg_hooks::{Phase as HookPhase, State};
use xupg_images::manifest::OnTimeout;

use crate::error::{Doing, Error, Result};
use crate::journal::{Journal, Kind, Phase, Reason, Upgrade};
use crate::plan::{Plan, Step, Stop};
use crate::ports::{Attempt, Ports, Stager};
use crate::report::Event;
use crate::slot::Slot;

/// How often a domU is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(500);

/// An agent that has not even taken a quiesce up by then is not there.
const NO_AGENT_S: f64 = 10.0;

/// What dom0's hook gets for the `stage` phase.
const STAGE_HOOK: Duration = Duration::from_secs(600);

/// What a run is told besides its plan.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Names the attempt to every agent and hook.
    pub txn: &'a str,
    /// Seconds since 1970.
    pub now: u64,
    /// The newest signing time of the bundle, in seconds since 1970.
    pub signed_at: u64,
    /// The slot that is live.
    pub booted: Slot,
    /// The xl configuration of each domU by name, to start it again after a failure.
    pub domu_configs: &'a [(String, String)],
}

/// Carries out a plan of [`crate::plan::upgrade`] or [`crate::plan::switch`]; `stager` is for
/// plans that stage.
///
/// # Errors
/// At the first step that fails. The domUs that were stopped run again, the standby slot is not
/// bootable unless it was staged whole, and the active slot is still the next to boot.
pub fn upgrade(
    plan: &Plan,
    run: &Run<'_>,
    ports: &mut Ports<'_>,
    stager: Option<&mut dyn Stager>,
) -> Result<()> {
    let mut journal = ports.journal.load()?;
    let attempt = Attempt::new(run.txn, &plan.from, &plan.to.version)?;
    let mut stopped = Vec::new();
    carry_out(
        plan,
        run,
        &mut journal,
        &attempt,
        ports,
        stager,
        &mut stopped,
    )
    .map_err(|error| {
        undo(&mut journal, &error, run, &stopped, ports);
        error.after_changes()
    })
}

/// The loop.
fn carry_out(
    plan: &Plan,
    run: &Run<'_>,
    journal: &mut Journal,
    attempt: &Attempt,
    ports: &mut Ports<'_>,
    mut stager: Option<&mut dyn Stager>,
    stopped: &mut Vec<String>,
) -> Result<()> {
    for step in &plan.steps {
        let began = began(step, ports);
        match step {
            Step::Forbid { slot } => {
                let mut begun_journal = journal.clone();
                begun_journal.begin(begun(plan, run, Kind::Upgrade, *slot));
                ports.record(&begun_journal)?;
                // Only now: unless that is on record, the slot still holds what it held.
                *journal = begun_journal;
                ports.boot.forbid(*slot)?;
            }
            Step::Stage { slot, .. } => {
                let stager = stager.as_deref_mut().ok_or_else(|| {
                    Error::failed("the plan stages a release and no bundle was given")
                })?;
                stage(plan, *slot, attempt, ports, stager, stopped)?;
                journal.staged();
                ports.record(journal)?;
            }
            Step::StopDomUs { domus } => stop_domus(domus, attempt, ports, stopped)?,
            Step::Switch { slot } => {
                ports
                    .boot
                    .try_once(*slot)
                    .doing(|| format!("telling the firmware to try slot {slot}"))?;
                journal.switched();
                ports.record(journal)?;
            }
            Step::Reboot => ports.power.reboot()?,
        }
        ended(step, began, ports);
    }
    Ok(())
}

/// Carries out a plan of [`crate::plan::rollback`].
///
/// # Errors
/// At the first step that fails; the stopped domUs run again and the node stays where it is.
pub fn rollback(plan: &Plan, run: &Run<'_>, ports: &mut Ports<'_>) -> Result<()> {
    let mut journal = ports.journal.load()?;
    let before = journal.clone();
    let attempt = Attempt::new(run.txn, &plan.from, &plan.to.version)?;
    let mut stopped = Vec::new();
    let mut carry_out = || -> Result<()> {
        for step in &plan.steps {
            let began = began(step, ports);
            match step {
                Step::StopDomUs { domus } => stop_domus(domus, &attempt, ports, &mut stopped)?,
                Step::Switch { slot } => {
                    if on_trial(&journal) {
                        // The firmware goes back by itself: the default has never been changed.
                        journal.give_up(Reason::operator_went_back());
                        ports.record(&journal)?;
                    } else {
                        journal.begin(begun(plan, run, Kind::Rollback, *slot));
                        ports.record(&journal)?;
                    }
                    ports.boot.make_default(*slot)?;
                }
                Step::Reboot => ports.power.reboot()?,
                Step::Forbid { .. } | Step::Stage { .. } => {}
            }
            ended(step, began, ports);
        }
        Ok(())
    };
    carry_out().map_err(|error| {
        let booted = run.booted;
        let restored = ports
            .boot
            .make_default(booted)
            .and_then(|()| ports.record(&before));
        start_again(run.domu_configs, &stopped, ports);
        match restored {
            Ok(()) => error.after_changes(),
            Err(second) => error.after_changes().hint(format!(
                "staying on slot {booted} could not be made sure of either: {}",
                second.because()
            )),
        }
    })
}

/// What the journal says when `plan` begins: an upgrade by staging, a rollback by switching.
fn begun(plan: &Plan, run: &Run<'_>, kind: Kind, target: Slot) -> Upgrade {
    Upgrade {
        txn: run.txn.to_owned(),
        kind,
        to: plan.to.clone(),
        from: plan.from.clone(),
        target,
        phase: match kind {
            Kind::Upgrade => Phase::Staging,
            Kind::Rollback => Phase::Switched,
        },
        started: run.now,
        signed_at: run.signed_at,
        giving_up: None,
        domains: BTreeMap::new(),
    }
}

fn on_trial(journal: &Journal) -> bool {
    journal
        .upgrade
        .as_ref()
        .is_some_and(|upgrade| upgrade.kind == Kind::Upgrade && upgrade.phase == Phase::Trial)
}

/// Writes the slot, runs dom0's hook in it, installs its boot image, unmounts and flushes.
fn stage(
    plan: &Plan,
    slot: Slot,
    attempt: &Attempt,
    ports: &mut Ports<'_>,
    stager: &mut dyn Stager,
    stopped: &mut Vec<String>,
) -> Result<()> {
    let events = ports.events;
    let domus = plan.steps.iter().find_map(|step| match step {
        Step::StopDomUs { domus } => Some(domus.as_slice()),
        _ => None,
    });
    let mut stop = || stop_domus(domus.unwrap_or_default(), attempt, ports, stopped);
    let staged = stager.write(slot, events, &mut stop)?;
    ports
        .hooks
        .run(
            staged.root(),
            slot,
            &attempt.flag(HookPhase::Stage, STAGE_HOOK),
            events,
        )
        .doing(|| "running dom0's hook for the `stage` phase in the new root".to_owned())?;
    ports
        .boot
        .install_image(slot, staged.root())
        .doing(|| format!("installing the boot image of slot {slot}"))?;
    staged.finish().doing(|| format!("flushing slot {slot}"))
}

/// Quiesces all domUs, then shuts each down in order. Those already stopped are left alone.
fn stop_domus(
    domus: &[Stop],
    attempt: &Attempt,
    ports: &mut Ports<'_>,
    stopped: &mut Vec<String>,
) -> Result<()> {
    let waiting: Vec<_> = domus
        .iter()
        .filter(|stop| !stopped.contains(&stop.domain))
        .cloned()
        .collect();
    quiesce(&waiting, attempt, ports)?;
    for stop in &waiting {
        let domain = &stop.domain;
        tell(ports, domain, "stopping", "");
        // Named before the attempt: whatever happens, it is looked after if the upgrade fails.
        stopped.push(domain.clone());
        let gone = ports
            .domains
            .shutdown(domain, Duration::from_secs(stop.shutdown_s.into()))
            .doing(|| format!("shutting `{domain}` down"))?;
        if !gone {
            match stop.on_timeout {
                OnTimeout::Fail => {
                    return Err(Error::failed(format!(
                        "it has not shut down within {} s, and its policy is `fail`",
                        stop.shutdown_s
                    ))
                    .doing(format!("shutting `{domain}` down"))
                    .hint(format!(
                        "`{domain}` may still be going down: `xl list` shows it, `xl create` starts \
                         it again. With the policy `destroy` the upgrade would go on without it"
                    )));
                }
                OnTimeout::Destroy => {
                    ports
                        .domains
                        .destroy(domain)
                        .doing(|| format!("destroying `{domain}`"))?;
                    tell(ports, domain, "destroyed", "it ignored the shutdown");
                    continue;
                }
            }
        }
        tell(ports, domain, "stopped", "");
    }
    Ok(())
}

/// Raises all flags, then waits for each domU in turn: their hooks run side by side. A quiesce is
/// an offer: a domU that does not take it, or not in time, is shut down all the same.
fn quiesce(domus: &[Stop], attempt: &Attempt, ports: &mut Ports<'_>) -> Result<()> {
    let asked: Vec<_> = domus
        .iter()
        .filter(|stop| stop.quiesce_s > 0)
        .map(|stop| {
            let limit = Duration::from_secs(stop.quiesce_s.into());
            (stop, attempt.flag(HookPhase::Quiesce, limit))
        })
        .collect();
    for (stop, flag) in &asked {
        tell(ports, &stop.domain, "quiescing", "");
        ports
            .domains
            .raise_flag(&stop.domain, flag)
            .doing(|| format!("telling `{}` that an upgrade is coming", stop.domain))?;
    }
    let began = ports.domains.clock();
    for (stop, flag) in asked {
        let domain = &stop.domain;
        loop {
            let waited = ports.domains.clock() - began;
            let answer = ports.domains.answer(domain, &flag)?;
            let silent = answer.is_none();
            if let Some(answer) = answer {
                let message = &answer.progress.message;
                if answer.state.is_good() {
                    tell(ports, domain, "quiesced", message);
                    break;
                }
                if matches!(answer.state, State::Refused | State::Failed) {
                    return Err(Error::failed(format!("its hook says: {message}"))
                        .doing(format!("quiescing `{domain}`")));
                }
            }
            if waited >= f64::from(stop.quiesce_s) || (silent && waited >= NO_AGENT_S) {
                tell(
                    ports,
                    domain,
                    "quiescing",
                    "no answer in time; shutting down",
                );
                break;
            }
            ports.domains.wait(POLL);
        }
    }
    Ok(())
}

/// After a failure: the active slot stays the next to boot, the journal says why, and the domUs
/// that were stopped run again. What fails here too is told as an event; the cause stays the
/// error.
fn undo(
    journal: &mut Journal,
    error: &Error,
    run: &Run<'_>,
    stopped: &[String],
    ports: &mut Ports<'_>,
) {
    let (booted, standby) = (run.booted, !run.booted);
    journal.given_up(Reason {
        domain: None,
        message: error.because(),
        release_at_fault: false,
    });
    // The journal first: it says `switched` only while the firmware is told so.
    let recorded = ports.record(journal);
    let kept = match journal.release(standby) {
        None => ports.boot.forbid(standby),
        Some(_) => ports.boot.cancel_try(),
    }
    .doing(|| format!("keeping slot {booted} next"));
    for second in [recorded, kept].into_iter().filter_map(Result::err) {
        tell(ports, "dom0", "failed", &second.because());
    }
    start_again(run.domu_configs, stopped, ports);
}

/// Starts the domUs that this run has stopped, in the opposite order.
fn start_again(domu_configs: &[(String, String)], stopped: &[String], ports: &mut Ports<'_>) {
    for domain in stopped.iter().rev() {
        let config = domu_configs.iter().find(|(name, _)| name == domain);
        let outcome = match config {
            Some((_, config)) => ports.domains.start(domain, config, None),
            None => Err(Error::failed("its xl configuration is not known")),
        };
        match outcome {
            Ok(()) => tell(ports, domain, "running", "started again"),
            Err(error) => {
                tell(
                    ports,
                    domain,
                    "failed",
                    &format!("starting it again: {}", error.because()),
                );
            }
        }
    }
}

fn tell(ports: &Ports<'_>, domain: &str, state: &str, message: &str) {
    (ports.events)(Event::Domain {
        domain: domain.to_owned(),
        state: state.to_owned(),
        percent: None,
        message: message.to_owned(),
    });
}

fn began(step: &Step, ports: &Ports<'_>) -> f64 {
    (ports.events)(Event::StepBegan {
        step: step.clone(),
        text: step.text(),
    });
    ports.domains.clock()
}

fn ended(step: &Step, began: f64, ports: &Ports<'_>) {
    let seconds = ports.domains.clock() - began;
    (ports.events)(Event::StepEnded {
        step: step.clone(),
        seconds,
    });
}
