//! Verbs that change the node: `apply`, `stage`, `switch`, `confirm`, `rollback`, `boot`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use xupg_images::manifest::Manifest;

use super::progress::Watchers;
use super::{Global, print, print_json};
use crate::apply::{self, Run};
use crate::boot::efi::EfiBoot;
use crate::domains::LiveDomains;
use crate::error::{Doing, Error, Kind, Result};
use crate::flash::{self, FlashStager};
use crate::hook::HookRunner;
use crate::journal::{Journal, JournalFile, Phase, Reason, Verdict};
use crate::node::{Node, NodeLock};
use crate::observe;
use crate::plan::{self, Plan, Request};
use crate::ports::{BootControl, Ports, Power};
use crate::power::InitPower;
use crate::report::{Event, SCHEMA};
use crate::slot::Slot;
use crate::state;
use crate::trial::{self, Booted};
use crate::view::View;

/// Upgrade the node.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// The bundle; `-` reads it from standard input.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Try a release again that failed its trial, or the one that runs already.
    #[arg(long)]
    force: bool,
    /// Shut the domUs down before staging, not after.
    #[arg(long)]
    cold: bool,
}

/// Write a release into the standby slot.
#[derive(Debug, Args)]
pub(super) struct Stage {
    /// The bundle; `-` reads it from standard input.
    #[arg(value_name = "BUNDLE", required_unless_present = "discard")]
    bundle: Option<PathBuf>,
    /// Try a release again that failed its trial, or the one that runs already.
    #[arg(long)]
    force: bool,
    /// Shut the domUs down first; needed for `overlay` payloads. They stay down.
    #[arg(long)]
    cold: bool,
    /// Throw the staged release away instead.
    #[arg(long, conflicts_with_all = ["bundle", "cold", "force"])]
    discard: bool,
}

/// Make the staged release the next to boot.
#[derive(Debug, Args)]
pub(super) struct Switch {
    /// Take a switch back; the release stays staged.
    #[arg(long)]
    cancel: bool,
    /// Stop the domUs and reboot at once.
    #[arg(long, conflicts_with = "cancel")]
    reboot: bool,
}

/// Bring the node up.
#[derive(Debug, Args)]
pub(super) struct Boot {
    /// Instead: the boot service has ended. In a trial without a verdict, note why: an orderly
    /// shutdown, or a failure, after which the node goes back.
    #[arg(long)]
    ended: bool,
    /// Instead: the boot has not come as far as this in time, or has stopped on its way (emergency
    /// mode, no xenstored). A trial that nobody judges goes back; any other boot is left alone.
    #[arg(long, conflicts_with = "ended")]
    overdue: bool,
}

/// Everything real that a change of the node works with.
struct Live {
    _lock: NodeLock,
    journal: JournalFile,
    boot: EfiBoot,
    domains: LiveDomains,
    hooks: HookRunner,
    power: InitPower,
    watchers: Watchers,
    booted: Slot,
}

impl Live {
    fn open(node: &Node, global: &Global) -> Result<Self> {
        let booted = node.booted()?;
        Ok(Self {
            _lock: node.lock()?,
            journal: JournalFile::in_directory(&node.state_directory()),
            boot: observe::boot_control(node)?,
            domains: LiveDomains::of(node)?,
            hooks: HookRunner::of(node),
            power: InitPower::of(node),
            watchers: Watchers::new(global.progress_fd, View::of(node, booted))?,
            booted,
        })
    }

    fn with_ports<T>(&mut self, work: impl FnOnce(&mut Ports<'_>) -> Result<T>) -> Result<T> {
        let watchers = &self.watchers;
        let events = |event: Event| watchers.show(event);
        work(&mut Ports {
            journal: &self.journal,
            boot: &mut self.boot,
            domains: &mut self.domains,
            hooks: &mut self.hooks,
            power: &mut self.power,
            events: &events,
        })
    }
}

pub(super) fn apply(verb: &Apply, node: &Node, global: &Global) -> Result<()> {
    let request = Request {
        cold: verb.cold,
        force: verb.force,
        switch: true,
    };
    change(&verb.bundle, request, node, global)
}

pub(super) fn stage(verb: &Stage, node: &Node, global: &Global) -> Result<()> {
    match &verb.bundle {
        None => discard(node, global),
        Some(bundle) => {
            let request = Request {
                cold: verb.cold,
                force: verb.force,
                switch: false,
            };
            change(bundle, request, node, global)
        }
    }
}

/// Opens the bundle, observes, plans, applies.
fn change(name: &Path, request: Request, node: &Node, global: &Global) -> Result<()> {
    // The lock comes before the bundle: the second of two upgrades is told at once.
    let mut live = Live::open(node, global)?;
    let input: Box<dyn Read + Send> = if name.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        let file = File::open(name).map_err(|error| {
            Error::refused(error).doing(format!("opening the bundle {}", name.display()))
        })?;
        Box::new(file)
    };
    let signed_before = live.journal.load()?.signed_at;
    let bundle = flash::open_bundle(input, &node.trust(), signed_before)
        .doing(|| format!("checking the bundle {}", name.display()))?;
    let manifest = bundle.manifest().clone();
    let to = observe::release_of(&manifest, bundle.manifest_bytes());
    let doing = format!("upgrading to {}", to.version);
    let observed = observe::observe(node, &mut live.domains)?;
    let Some(plan) =
        plan::upgrade(&observed, &manifest, to.clone(), request).doing(|| doing.clone())?
    else {
        return print(&format!("{} is running already; nothing to do", to.version));
    };
    if global.dry_run {
        return show_plan(&plan, global);
    }
    let txn = uuid::Uuid::new_v4().to_string();
    let configs = domu_configs(node, &manifest);
    let booted = live.booted;
    let signed_at = flash::signed_at(&bundle);
    let mut stager = FlashStager::new(node, booted, bundle)?;
    let run = Run {
        txn: &txn,
        now: now(),
        signed_at,
        booted,
        domu_configs: &configs,
    };
    live.with_ports(|ports| apply::upgrade(&plan, &run, ports, Some(&mut stager)))
        .map_err(|error| error.doing(doing))?;
    finish(&plan, &txn, global)
}

fn finish(plan: &Plan, txn: &str, global: &Global) -> Result<()> {
    let rebooting = plan.steps.contains(&plan::Step::Reboot);
    if global.json {
        return print_json(&serde_json::json!({
            "schema": SCHEMA, "txn": txn, "from": plan.from, "to": plan.to,
            "rebooting": rebooting,
        }));
    }
    let to = &plan.to.version;
    print(&if rebooting {
        format!("rebooting into {to}; `xupg status` tells how it ends")
    } else {
        format!("{to} is staged; `xupg switch --reboot` goes on")
    })
}

fn show_plan(plan: &Plan, global: &Global) -> Result<()> {
    if global.json {
        return print_json(&serde_json::json!({ "schema": SCHEMA, "plan": plan }));
    }
    print(&format!("{} -> {}", plan.from, plan.to.version))?;
    plan.steps
        .iter()
        .enumerate()
        .try_for_each(|(number, step)| print(&format!("{:>3}. {}", number + 1, step.text())))
}

/// Where each domU's xl configuration is: of the running release, and of the new one.
fn domu_configs(node: &Node, manifest: &Manifest) -> Vec<(String, String)> {
    let active = observe::manifest_of(node).ok();
    active
        .iter()
        .chain([manifest])
        .flat_map(|manifest| &manifest.payloads)
        .filter_map(|p| Some((p.domain.clone(), p.domu.as_ref()?.config.clone())))
        .collect()
}

pub(super) fn switch(verb: &Switch, node: &Node, global: &Global) -> Result<()> {
    let mut live = Live::open(node, global)?;
    let booted = live.booted;
    let mut journal = live.journal.load()?;
    let Some(upgrade) = journal.upgrade.clone() else {
        return Err(Error::refused("nothing is staged").hint("`xupg stage` does that"));
    };
    let target = upgrade.target;
    match (upgrade.phase, verb.cancel) {
        (Phase::Switched, true) => live.with_ports(|ports| {
            // The journal first: it says `switched` only while the firmware is told so.
            journal.switch_cancelled();
            ports.record(&journal)?;
            ports.boot.cancel_try()
        }),
        (Phase::Staged, false) => {
            let observed = observe::observe(node, &mut live.domains)?;
            let manifest = observe::manifest_of(node)?;
            let plan = plan::switch(&observed, &manifest, &upgrade, verb.reboot)?;
            if global.dry_run {
                return show_plan(&plan, global);
            }
            let configs = domu_configs(node, &manifest);
            let run = Run {
                txn: &upgrade.txn,
                now: now(),
                signed_at: upgrade.signed_at,
                booted,
                domu_configs: &configs,
            };
            live.with_ports(|ports| apply::upgrade(&plan, &run, ports, None))
                .doing(|| format!("switching to {} in slot {target}", upgrade.to.version))
        }
        (Phase::Switched, false) => print("switched already; nothing to do"),
        (Phase::Staging, _) => Err(Error::refused("the stage of this release did not end")
            .hint("run `xupg stage` or `xupg apply` again")),
        (Phase::Staged, true) => print("not switched; nothing to do"),
        (Phase::Trial, _) => Err(Error::refused(format!(
            "{} is on trial",
            upgrade.to.version
        ))),
    }
}

fn discard(node: &Node, global: &Global) -> Result<()> {
    let mut live = Live::open(node, global)?;
    let mut journal = live.journal.load()?;
    match journal
        .upgrade
        .as_ref()
        .map(|upgrade| (upgrade.phase, upgrade.target))
    {
        None => print("nothing is staged; nothing to do"),
        Some((Phase::Staging | Phase::Staged, target)) => live.with_ports(|ports| {
            journal.discarded();
            ports.record(&journal)?;
            ports.boot.forbid(target)
        }),
        Some((phase, _)) => Err(Error::refused(match phase {
            Phase::Switched => "the release is switched to; take that back first",
            _ => "the release is on trial",
        })
        .hint("`xupg switch --cancel`, or `xupg rollback` in a trial")),
    }
}

pub(super) fn confirm(node: &Node, global: &Global) -> Result<()> {
    let booted = node.booted()?;
    let file = JournalFile::in_directory(&node.state_directory());
    if !on_trial(&file.load()?, booted) {
        return print("nothing is on trial; nothing to do");
    }
    let mut live = match Live::open(node, global) {
        // The boot service holds the lock while it judges: it is told.
        Err(error) if error.kind() == Kind::Busy => return file.leave_verdict(Verdict::Confirm),
        other => other?,
    };
    let manifest = observe::manifest_of(node)?;
    let mut journal = file.load()?;
    live.with_ports(|ports| trial::confirm(&mut journal, booted, &manifest, ports))
}

fn on_trial(journal: &Journal, booted: Slot) -> bool {
    let upgrade = journal.upgrade.as_ref();
    upgrade.is_some_and(|upgrade| upgrade.phase == Phase::Trial && upgrade.target == booted)
}

pub(super) fn rollback(node: &Node, global: &Global) -> Result<()> {
    let file = JournalFile::in_directory(&node.state_directory());
    let mut live = match Live::open(node, global) {
        // The boot service holds the lock while it judges a trial: it is told.
        Err(error) if error.kind() == Kind::Busy && on_trial(&file.load()?, node.booted()?) => {
            return file.leave_verdict(Verdict::GoBack);
        }
        other => other?,
    };
    let observed = observe::observe(node, &mut live.domains)?;
    let manifest = observe::manifest_of(node).ok();
    let plan = plan::rollback(&observed, manifest.as_ref())?;
    if global.dry_run {
        return show_plan(&plan, global);
    }
    let txn = uuid::Uuid::new_v4().to_string();
    let configs = manifest
        .map(|manifest| domu_configs(node, &manifest))
        .unwrap_or_default();
    let booted = live.booted;
    let run = Run {
        txn: &txn,
        now: now(),
        signed_at: 0,
        booted,
        domu_configs: &configs,
    };
    live.with_ports(|ports| apply::rollback(&plan, &run, ports))
        .doing(|| format!("rolling back to {}", plan.to.version))?;
    finish(&plan, &txn, global)
}

pub(super) fn boot(verb: &Boot, node: &Node, global: &Global) -> Result<()> {
    if verb.ended {
        let file = JournalFile::in_directory(&node.state_directory());
        let journal = file.load()?;
        return end_trial_without_verdict(
            node,
            &file,
            journal,
            "`xupg boot` ended without a verdict",
        );
    }
    if verb.overdue {
        return end_overdue_trial(node);
    }
    let mut live = Live::open(node, global)?;
    let booted = live.booted;
    let manifest = observe::manifest_of(node)?;
    let outcome = live
        .with_ports(|ports| trial::boot(booted, &manifest, ports))
        .doing(|| format!("bringing {} in slot {booted} up", manifest.release))?;
    match outcome {
        Booted::Ordinary(failed) if failed.is_empty() => Ok(()),
        Booted::Ordinary(failed) => {
            let names: Vec<_> = failed
                .iter()
                .map(|(name, cause)| format!("`{name}`: {cause}"))
                .collect();
            Err(Error::failed(names.join("; ")).doing("starting the domUs"))
        }
        Booted::Confirmed => print(&format!("{} is confirmed", manifest.release)),
        Booted::GivingUp(reason) => print(&format!("going back: {reason}")),
        Booted::Back(reason) => print(&format!("back: {reason}")),
        Booted::RolledBack => print(&format!("rolled back to {}", manifest.release)),
    }
}

/// A trial whose judge is gone. Without the lock: nobody else changes a node that is on trial.
fn end_trial_without_verdict(
    node: &Node,
    file: &JournalFile,
    mut journal: Journal,
    why: &str,
) -> Result<()> {
    let booted = node.booted()?;
    // Also one that is given up already: the reboot that should have followed has failed.
    if journal.judge_boot(booted) != state::Boot::Trial {
        return Ok(());
    }
    let mut power = InitPower::of(node);
    if power.is_going_down() {
        journal.give_up(Reason {
            domain: None,
            message: "the node was shut down or rebooted before the verdict".to_owned(),
            release_at_fault: false,
        });
        return file.save(&journal);
    }
    journal.give_up(Reason {
        domain: Some("dom0".to_owned()),
        message: why.to_owned(),
        release_at_fault: true,
    });
    file.save(&journal)?;
    power.reboot()
}

/// A trial whose judge has never begun: the new dom0 hangs, or is in emergency mode.
fn end_overdue_trial(node: &Node) -> Result<()> {
    let _lock = match node.lock() {
        // It is being judged, and that has deadlines of its own.
        Err(error) if error.kind() == Kind::Busy => return Ok(()),
        other => other?,
    };
    let file = JournalFile::in_directory(&node.state_directory());
    match file.load() {
        Ok(journal) => {
            let why = "the new dom0 has not come as far as `xupg boot`";
            end_trial_without_verdict(node, &file, journal, why)
        }
        // Without the state partition the firmware still knows: what it would not boot by itself
        // is a trial. That it never came up is what the next boot will say.
        Err(error) => match observe::boot_control(node)?.next()? {
            Some(default) if default != node.booted()? => InitPower::of(node).reboot(),
            _ => Err(error),
        },
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
