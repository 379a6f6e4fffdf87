//! What will be done, decided before anything is: a plain value that `-N` prints and apply obeys.

use serde::Serialize;
use xupg_images::manifest::{Manifest, Mode, OnTimeout, Payload};
use xupg_images::version;

use crate::error::{Error, Result};
use crate::journal::{Journal, Phase, Release, Upgrade};
use crate::ports::Running;
use crate::slot::Slot;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Shut the domUs down before staging rather than after.
    pub cold: bool,
    /// Try a release again that failed, or install the running one once more.
    pub force: bool,
    /// Go on to the switch and the reboot.
    pub switch: bool,
}

/// What is seen of the node before it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The slot that is live.
    pub booted: Slot,
    /// The node's compatible string.
    pub compatible: String,
    /// The journal.
    pub journal: Journal,
    /// Bytes of the standby slot's partition.
    pub standby_bytes: u64,
    /// The domUs that run now.
    pub running: Vec<Running>,
    /// Domains with a saved state, which would be restored onto a new file system.
    pub saved: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Make the slot unbootable, in the journal and for the firmware.
    Forbid {
        /// Which.
        slot: Slot,
    },
    /// Quiesce and shut down the domUs, in order.
    StopDomUs {
        /// Each with its time and policy.
        domus: Vec<Stop>,
    },
    /// Write, seal and flush every payload; run dom0's hook for the `stage` phase in the new
    /// root; install its boot image.
    Stage {
        /// Where to.
        slot: Slot,
        /// What, in order.
        domains: Vec<String>,
    },
    /// Boot the slot next, once.
    Switch {
        /// Which.
        slot: Slot,
    },
    /// Reboot the node.
    Reboot,
}

/// How one domU is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Which.
    pub domain: String,
    /// Seconds for its quiesce hook; 0 where it is not part of the release.
    pub quiesce_s: u32,
    /// Seconds for its shutdown.
    pub shutdown_s: u32,
    /// What happens after that.
    pub on_timeout: OnTimeout,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The release that is left.
    pub from: String,
    /// The release that is gone to.
    pub to: Release,
    /// In this order.
    pub steps: Vec<Step>,
}

impl Step {
    /// The step in words, a gerund.
    pub fn text(&self) -> String {
        match self {
            Self::Forbid { slot } => format!("making slot {slot} unbootable"),
            Self::StopDomUs { domus } if domus.is_empty() => "stopping no domUs".to_owned(),
            Self::StopDomUs { domus } => {
                let names: Vec<_> = domus.iter().map(|stop| stop.domain.as_str()).collect();
                format!("stopping {}", names.join(", "))
            }
            Self::Stage { slot, domains } => {
                format!("staging {} into slot {slot}", domains.join(", "))
            }
            Self::Switch { slot } => format!("switching to slot {slot} for one boot"),
            Self::Reboot => "rebooting".to_owned(),
        }
    }
}

/// Plans the way to the release of `manifest`. `Ok(None)`: the node runs it already.
///
/// # Errors
/// A refusal, with nothing changed.
pub fn upgrade(
    observed: &Observed,
    manifest: &Manifest,
    to: Release,
    request: Request,
) -> Result<Option<Plan>> {
    let journal = &observed.journal;
    if manifest.compatible != observed.compatible {
        return Err(Error::refused(format!(
            "the bundle is for `{}`, this node is `{}`",
            manifest.compatible, observed.compatible
        )));
    }
    if version::compare(&manifest.release, &journal.floor).is_lt() {
        return Err(Error::refused(format!(
            "release {} is older than {}, the oldest this node accepts",
            manifest.release, journal.floor
        )));
    }
    check_state(observed, &to, request)?;
    if journal.release(observed.booted) == Some(&to) && !request.force {
        return Ok(None);
    }
    check_space(observed, manifest)?;
    check_domus(observed)?;

    let slot = !observed.booted;
    let stop = Step::StopDomUs {
        domus: stops(observed, manifest),
    };
    let stage = Step::Stage {
        slot,
        domains: manifest
            .payloads
            .iter()
            .map(|payload| payload.domain.clone())
            .collect(),
    };
    let mut steps = vec![Step::Forbid { slot }];
    match (request.switch, request.cold) {
        (_, true) => steps.extend([stop, stage]),
        (true, false) => steps.extend([stage, stop]),
        (false, false) => steps.push(stage),
    }
    let overlays = manifest
        .payloads
        .iter()
        .any(|payload| payload.mode == Mode::Overlay);
    if overlays && !request.switch && !request.cold {
        return Err(Error::refused("an overlay payload needs its domU at rest")
            .hint("`xupg stage --cold` shuts the domUs down first; `xupg apply` does by itself"));
    }
    if request.switch {
        steps.extend([Step::Switch { slot }, Step::Reboot]);
    }
    let from = journal
        .release(observed.booted)
        .map_or("unknown".into(), |r| r.version.clone());
    Ok(Some(Plan { from, to, steps }))
}

/// Plans the switch to a release that is staged already, and with `reboot` the way into it.
///
/// # Errors
/// A refusal where a domU cannot be stopped for good.
pub fn switch(
    observed: &Observed,
    manifest: &Manifest,
    upgrade: &Upgrade,
    reboot: bool,
) -> Result<Plan> {
    let mut steps = Vec::new();
    if reboot {
        check_domus(observed)?;
        steps.push(Step::StopDomUs {
            domus: stops(observed, manifest),
        });
    }
    steps.push(Step::Switch {
        slot: upgrade.target,
    });
    if reboot {
        steps.push(Step::Reboot);
    }
    Ok(Plan {
        from: upgrade.from.clone(),
        to: upgrade.to.clone(),
        steps,
    })
}

/// Plans the way back to the standby slot.
///
/// # Errors
/// A refusal where the standby slot holds no whole release, or a trial's verdict is still out.
pub fn rollback(observed: &Observed, manifest: Option<&Manifest>) -> Result<Plan> {
    let slot = !observed.booted;
    let Some(to) = observed.journal.release(slot) else {
        return Err(Error::refused(format!(
            "slot {slot} holds no whole release to go back to"
        )));
    };
    if let Some(upgrade) = &observed.journal.upgrade
        && upgrade.phase != Phase::Trial
    {
        return Err(Error::refused(format!(
            "an upgrade to {} is {}; the node still runs what it ran before",
            upgrade.to.version,
            crate::report::state_word(&observed.journal)
        ))
        .hint("`xupg stage --discard` gives it up"));
    }
    check_domus(observed)?;
    let domus = match manifest {
        Some(manifest) => stops(observed, manifest),
        None => observed.running.iter().map(stop_unknown).collect(),
    };
    let from = observed
        .journal
        .release(observed.booted)
        .map_or("unknown".into(), |release| release.version.clone());
    Ok(Plan {
        from,
        to: to.clone(),
        steps: vec![
            Step::StopDomUs { domus },
            Step::Switch { slot },
            Step::Reboot,
        ],
    })
}

fn check_state(observed: &Observed, to: &Release, request: Request) -> Result<()> {
    let journal = &observed.journal;
    if let Some(upgrade) = &journal.upgrade {
        let version = &upgrade.to.version;
        match upgrade.phase {
            Phase::Staging | Phase::Staged => {}
            Phase::Switched => {
                return Err(Error::refused(format!(
                    "{version} is switched to and waits for a reboot"
                ))
                .hint("reboot, or take it back with `xupg switch --cancel`"));
            }
            Phase::Trial => {
                return Err(Error::refused(format!("{version} is on trial")).hint(
                    "wait for its verdict (`xupg watch`), or `xupg confirm` or `xupg rollback`",
                ));
            }
        }
    }
    if let Some(failed) = journal.failed.iter().find(|failed| failed.release == *to)
        && !request.force
    {
        return Err(Error::refused(format!(
            "release {} has failed on this node: {}",
            to.version, failed.reason
        ))
        .hint("`--force` tries it once more"));
    }
    Ok(())
}

fn check_space(observed: &Observed, manifest: &Manifest) -> Result<()> {
    let needed = manifest
        .payloads
        .iter()
        .map(|payload| {
            payload
                .image
                .as_ref()
                .map_or_else(|| footprint(payload), |i| i.bytes)
        })
        .fold(0, u64::saturating_add);
    // What ext4 keeps for itself on a fresh slot without reserved blocks: inode tables are in
    // `footprint`, the journal, bitmaps and rounding are within 3 %.
    let usable = observed.standby_bytes / 100 * 97;
    if needed > usable {
        return Err(Error::refused(format!(
            "the release needs {} in slot {}, which has {}",
            mebibytes(needed),
            !observed.booted,
            mebibytes(usable)
        )));
    }
    for payload in &manifest.payloads {
        if let Some(image) = &payload.image
            && footprint(payload) > image.bytes
        {
            return Err(Error::refused(format!(
                "`{}` needs {} and its image has {}",
                payload.domain,
                mebibytes(footprint(payload)),
                mebibytes(image.bytes)
            )));
        }
    }
    Ok(())
}

/// Bytes a payload takes on ext4: its content, half a block lost per entry, and its inodes.
fn footprint(payload: &Payload) -> u64 {
    payload
        .data_bytes
        .saturating_add(payload.entries.saturating_mul(2048 + 256))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn check_domus(observed: &Observed) -> Result<()> {
    if let Some(domu) = observed.running.iter().find(|domu| domu.restarts) {
        return Err(Error::refused(format!(
            "`{}` would be started again by xl after its shutdown",
            domu.name
        ))
        .hint("set `on_poweroff = \"destroy\"` in its xl configuration and restart it once"));
    }
    if let Some(name) = observed.saved.first() {
        return Err(Error::refused(format!(
            "`{name}` has a saved state, which xendomains would restore onto a new file system"
        ))
        .hint("restore it, or remove its file from /var/lib/xen/save"));
    }
    Ok(())
}

/// Every running domU, the ones of the release last-started first, strangers before them all:
/// dom0 reboots, so nothing may be left running for xendomains to save.
fn stops(observed: &Observed, manifest: &Manifest) -> Vec<Stop> {
    let settings = |name: &str| {
        manifest
            .payloads
            .iter()
            .find(|p| p.domain == name)
            .and_then(|p| p.domu.as_ref())
    };
    let mut running: Vec<_> = observed.running.iter().collect();
    running.sort_by_key(|domu| {
        let order = settings(&domu.name).map_or(u32::MAX, |domu| domu.order);
        std::cmp::Reverse((order, domu.name.clone()))
    });
    running
        .into_iter()
        .map(|domu| match settings(&domu.name) {
            None => stop_unknown(domu),
            Some(settings) => Stop {
                domain: domu.name.clone(),
                quiesce_s: settings.quiesce_s,
                shutdown_s: settings.shutdown_s,
                on_timeout: settings.on_timeout,
            },
        })
        .collect()
}

fn stop_unknown(domu: &Running) -> Stop {
    Stop {
        domain: domu.name.clone(),
        quiesce_s: 0,
        shutdown_s: 120,
        on_timeout: OnTimeout::Fail,
    }
}
