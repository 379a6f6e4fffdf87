//! The person who upgrades the node, and the boot service that runs after every boot.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use xupg::apply::{self, Run};
use xupg::error::Result;
use xupg::journal::Reason;
use xupg::plan::{self, Observed, Plan, Request};
use xupg::ports::{Domains as _, Ports, Stager};
use xupg::report::Event;
use xupg::slot::Slot;
use xupg::state::Boot;
use xupg::trial::{self, Booted};
use xupg_images::manifest::Manifest;

use crate::domus::DomUs;
use crate::doubles::{Bundle, Disc, Dom0Hook, Firmware, Plug};
use crate::release::{COMPATIBLE, name};
use crate::world::{PowerCut, Shared, World, domus};

/// What becomes of a command.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Ended(Result<T>),
    PowerCut,
}

/// Who works on the node.
pub(crate) struct Operator {
    pub(crate) world: Shared,
    /// How each boot ended, in words.
    pub(crate) boots: Vec<String>,
    /// The power was cut after the firmware had taken the new slot and before its trial was on
    /// record: nobody can tell that from a release that does not come up.
    pub(crate) cut_before_trial: bool,
}

pub(crate) const FULL: Request = Request {
    cold: false,
    force: false,
    switch: true,
};

impl Operator {
    pub(crate) fn of(world: World) -> Self {
        let world = std::rc::Rc::new(std::cell::RefCell::new(world));
        Self {
            world,
            boots: Vec::new(),
            cut_before_trial: false,
        }
    }

    fn attempt<T>(&self, work: impl FnOnce(&mut Ports<'_>) -> Result<T>) -> Outcome<T> {
        let world = &self.world;
        let result = catch_unwind(AssertUnwindSafe(|| {
            work(&mut Ports {
                journal: &Disc(world.clone()),
                boot: &mut Firmware(world.clone()),
                domains: &mut DomUs(world.clone()),
                hooks: &mut Dom0Hook(world.clone()),
                power: &mut Plug(world.clone()),
                events: &|event: Event| world.borrow_mut().events.push(event),
            })
        }));
        match result {
            Ok(result) => Outcome::Ended(result),
            Err(panic) if panic.is::<PowerCut>() => Outcome::PowerCut,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn observe(&self) -> Observed {
        let running = DomUs(self.world.clone()).running().unwrap_or_default();
        let world = self.world.borrow();
        Observed {
            booted: world.booted,
            compatible: COMPATIBLE.to_owned(),
            journal: world.journal.clone(),
            standby_bytes: 1 << 30,
            running,
            saved: Vec::new(),
        }
    }

    fn carry_out(&self, plan: &Plan, txn: &str, stager: Option<&mut dyn Stager>) -> Outcome<()> {
        let booted = self.world.borrow().booted;
        let manifest = self.world.borrow().manifest(booted);
        let configs: Vec<_> = domus(&manifest)
            .into_iter()
            .map(|domu| (domu.clone(), format!("/etc/xen/{domu}.cfg")))
            .collect();
        let run = Run {
            txn,
            now: 1,
            signed_at: 0,
            booted,
            domu_configs: &configs,
        };
        let rollback = txn.starts_with("rollback");
        self.attempt(|ports| match rollback {
            true => apply::rollback(plan, &run, ports),
            false => apply::upgrade(plan, &run, ports, stager),
        })
    }

    fn txn(&self, what: &str) -> String {
        format!("{what}-{}", self.world.borrow().steps.len())
    }

    /// `xupg apply`, or `xupg stage`.
    pub(crate) fn apply(&self, manifest: &Manifest, request: Request) -> Outcome<()> {
        match plan::upgrade(&self.observe(), manifest, name(manifest), request) {
            Err(refusal) => Outcome::Ended(Err(refusal)),
            Ok(None) => Outcome::Ended(Ok(())),
            Ok(Some(plan)) => {
                let mut bundle = Bundle(self.world.clone(), manifest.clone());
                self.carry_out(&plan, &self.txn("upgrade"), Some(&mut bundle))
            }
        }
    }

    /// `xupg switch`, with `--reboot` or not.
    pub(crate) fn switch(&self, reboot: bool) -> Outcome<()> {
        let observed = self.observe();
        let Some(upgrade) = observed.journal.upgrade.clone() else {
            return Outcome::Ended(Ok(()));
        };
        let manifest = self.world.borrow().manifest(observed.booted);
        match plan::switch(&observed, &manifest, &upgrade, reboot) {
            Err(refusal) => Outcome::Ended(Err(refusal)),
            Ok(plan) => self.carry_out(&plan, &upgrade.txn, None),
        }
    }

    /// `xupg rollback`.
    pub(crate) fn rollback(&self) -> Outcome<()> {
        let observed = self.observe();
        let manifest = self.world.borrow().manifest(observed.booted);
        match plan::rollback(&observed, Some(&manifest)) {
            Err(refusal) => Outcome::Ended(Err(refusal)),
            Ok(plan) => self.carry_out(&plan, &self.txn("rollback"), None),
        }
    }

    /// An operator reboots; init stops the domUs.
    pub(crate) fn reboot(&self) {
        let mut world = self.world.borrow_mut();
        world.running.clear();
        world.rebooting = true;
    }

    /// Lets a command's reboot or power cut take its course, until the node rests.
    pub(crate) fn settle<T: std::fmt::Debug>(&mut self, outcome: Outcome<T>) -> Option<Result<T>> {
        let result = match outcome {
            Outcome::PowerCut => {
                self.cut();
                None
            }
            Outcome::Ended(result) => {
                if !self.world.borrow().rebooting {
                    return Some(result);
                }
                self.stop();
                Some(result)
            }
        };
        self.bring_up();
        result
    }

    /// One run of `xupg boot`.
    pub(crate) fn boot_once(&self, booted: Slot, manifest: &Manifest) -> Result<Booted> {
        match self.attempt(|ports| trial::boot(booted, manifest, ports)) {
            Outcome::Ended(result) => result,
            Outcome::PowerCut => panic!("no power cut is scripted"),
        }
    }

    /// Boots, again and again if that is what happens, until the node rests.
    fn bring_up(&mut self) {
        for _ in 0..12 {
            let (booted, manifest) = {
                let world = self.world.borrow();
                (world.booted, world.manifest(world.booted))
            };
            let outcome = self.attempt(|ports| trial::boot(booted, &manifest, ports));
            self.boots.push(match &outcome {
                Outcome::PowerCut => format!("{booted}: power cut"),
                Outcome::Ended(Err(error)) => format!("{booted}: {}", error.because()),
                Outcome::Ended(Ok(ended)) => format!("{booted}: {}", words(ended)),
            });
            match outcome {
                Outcome::PowerCut => self.cut(),
                Outcome::Ended(Ok(_)) if !self.world.borrow().rebooting => return,
                Outcome::Ended(Ok(_)) => self.stop(),
                Outcome::Ended(Err(_)) => self.boot_failed(booted),
            }
        }
        panic!("the node does not come to rest: {:#?}", self.boots);
    }

    /// The boot service has failed: `xupg boot --failed`. Outside a trial somebody starts the
    /// service once more.
    fn boot_failed(&mut self, booted: Slot) {
        let on_trial = self.world.borrow().journal.judge_boot(booted) == Boot::Trial;
        if on_trial {
            self.give_up("the boot service failed", true);
            self.stop();
        } else if self.world.borrow().rebooting {
            self.stop();
        } else {
            self.must_run(booted);
        }
    }

    /// A boot that ended badly has started the domUs all the same, if it could read the journal.
    fn must_run(&self, booted: Slot) {
        let mut world = self.world.borrow_mut();
        let blind = world
            .steps
            .last()
            .is_some_and(|step| step == "read the journal");
        for domu in domus(&world.manifest(booted)) {
            if !blind && !world.running.contains_key(&domu) && !world.died.contains(&domu) {
                world.broken(format!("`{domu}` was not started"));
            }
        }
    }

    /// An orderly shutdown, in which the boot service notes that a trial is cut short.
    fn stop(&mut self) {
        let booted = self.world.borrow().booted;
        if self.world.borrow().journal.judge_boot(booted) == Boot::Trial {
            self.give_up("an orderly reboot", false);
        }
        self.world.borrow_mut().power_on();
    }

    fn give_up(&self, message: &str, release_at_fault: bool) {
        let reason = Reason {
            domain: None,
            message: message.to_owned(),
            release_at_fault,
        };
        self.world.borrow_mut().journal.give_up(reason);
    }

    fn cut(&mut self) {
        let mut world = self.world.borrow_mut();
        let recorded = world.journal.upgrade.as_ref().is_none_or(|upgrade| {
            upgrade.target != world.booted || upgrade.phase == xupg::journal::Phase::Trial
        });
        self.cut_before_trial |= !recorded;
        world.power_on();
    }
}

fn words(booted: &Booted) -> String {
    match booted {
        Booted::Ordinary(failed) if failed.is_empty() => "ordinary".to_owned(),
        Booted::Ordinary(failed) => format!("ordinary, without {failed:?}"),
        Booted::Confirmed => "confirmed".to_owned(),
        Booted::GivingUp(reason) => format!("going back: {reason}"),
        Booted::Back(reason) => format!("back: {reason}"),
        Booted::RolledBack => "rolled back".to_owned(),
    }
}
