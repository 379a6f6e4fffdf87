//! What a node is made of, and how its firmware chooses a slot.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::rc::Rc;

use xupg::error::{Error, Result};
use xupg::journal::{Journal, Verdict};
use xupg::report::Event;
use xupg::slot::Slot;
use xupg_hooks::{Flag, Phase};
use xupg_images::manifest::Manifest;

use crate::release::name;

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It returns an error and has done nothing.
    ErrorBefore,
    /// It returns an error, and yet it is done.
    ErrorAfter,
    /// The power is cut before it.
    CutBefore,
    /// The power is cut right after it.
    CutAfter,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [
        Self::ErrorBefore,
        Self::ErrorAfter,
        Self::CutBefore,
        Self::CutAfter,
    ];
    pub(crate) const CUTS: [Self; 2] = [Self::CutBefore, Self::CutAfter];

    pub(crate) fn is_cut(self) -> bool {
        Self::CUTS.contains(&self)
    }
}

/// The payload of the panic that a power cut is.
pub(crate) struct PowerCut;

/// What a slot's partition really holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disk {
    Nothing,
    Partial,
    Whole(Box<Manifest>),
}

/// How a domain's hook behaves in one phase of one release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Good,
    Missing,
    Fails,
    Refuses,
    /// Never answers.
    Silent,
    /// The domain dies before it has answered.
    Dies,
    /// Good the first time, failing from the second boot on.
    GoodOnce,
}

/// A domU that runs.
#[derive(Debug, Clone)]
pub(crate) struct DomU {
    /// The slot whose image it runs from.
    pub(crate) slot: Slot,
    pub(crate) flag: Option<Flag>,
    /// When the flag was raised.
    pub(crate) since: f64,
}

/// A hook that has completed: where, whose, for what.
pub(crate) type Completed = (Slot, String, String, Phase);

/// The node.
pub(crate) struct World {
    // What a power cut leaves.
    pub(crate) disks: [Disk; 2],
    pub(crate) images: [Option<String>; 2],
    pub(crate) order: Vec<Slot>,
    pub(crate) once: Option<Slot>,
    pub(crate) removable: Slot,
    pub(crate) journal: Journal,
    /// The memory that hooks and agents keep in the file systems.
    pub(crate) done: BTreeSet<Completed>,

    // What it does not.
    pub(crate) booted: Slot,
    pub(crate) running: BTreeMap<String, DomU>,
    /// domUs that have died by themselves since the boot.
    pub(crate) died: BTreeSet<String>,
    pub(crate) rebooting: bool,
    pub(crate) verdict: Option<Verdict>,

    // The script.
    pub(crate) hooks: BTreeMap<(&'static str, String, Phase), Hook>,
    /// Releases whose hypervisor or dom0 never comes up.
    pub(crate) stillborn: BTreeSet<String>,
    pub(crate) ignores_shutdown: BTreeSet<&'static str>,
    pub(crate) does_not_start: BTreeSet<&'static str>,
    /// What goes wrong at which step.
    pub(crate) faults: BTreeMap<usize, Fault>,

    // The record.
    pub(crate) steps: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) completions: BTreeMap<Completed, usize>,
    pub(crate) answered: BTreeMap<String, usize>,
    pub(crate) broken: Vec<String>,
    pub(crate) boots: Vec<Slot>,
    pub(crate) clock: f64,
}

/// The node in the hands of all its doubles.
pub(crate) type Shared = Rc<RefCell<World>>;

pub(crate) fn index(slot: Slot) -> usize {
    usize::from(slot == Slot::B)
}

impl World {
    /// A node that runs `manifest` from slot A, its domUs up, and nothing in slot B.
    pub(crate) fn installed(manifest: &Manifest) -> Self {
        let domu = DomU {
            slot: Slot::A,
            flag: None,
            since: 0.0,
        };
        Self {
            disks: [Disk::Whole(Box::new(manifest.clone())), Disk::Nothing],
            images: [Some(manifest.release.clone()), None],
            order: vec![Slot::A],
            once: None,
            removable: Slot::A,
            journal: Journal::installed(Slot::A, name(manifest), manifest.floor.clone(), 0),
            done: BTreeSet::new(),
            booted: Slot::A,
            running: domus(manifest)
                .into_iter()
                .map(|name| (name, domu.clone()))
                .collect(),
            died: BTreeSet::new(),
            rebooting: false,
            verdict: None,
            hooks: BTreeMap::new(),
            stillborn: BTreeSet::new(),
            ignores_shutdown: BTreeSet::new(),
            does_not_start: BTreeSet::new(),
            faults: BTreeMap::new(),
            steps: Vec::new(),
            events: Vec::new(),
            completions: BTreeMap::new(),
            answered: BTreeMap::new(),
            broken: Vec::new(),
            boots: vec![Slot::A],
            clock: 0.0,
        }
    }

    /// One step of a port: counted, and where it is scripted to, gone wrong.
    pub(crate) fn step<T>(
        &mut self,
        what: impl Into<String>,
        effect: impl FnOnce(&mut Self) -> T,
    ) -> Result<T> {
        let what = what.into();
        let fault = self.faults.remove(&self.steps.len());
        self.steps.push(what.clone());
        let failure = || Error::failed(format!("{what} went wrong"));
        match fault {
            Some(Fault::ErrorBefore) => return Err(failure()),
            Some(Fault::CutBefore) => resume_unwind(Box::new(PowerCut)),
            _ => {}
        }
        let value = effect(self);
        self.check_boot_order(&what);
        match fault {
            Some(Fault::ErrorAfter) => Err(failure()),
            Some(Fault::CutAfter) => resume_unwind(Box::new(PowerCut)),
            _ => Ok(value),
        }
    }

    /// Notes that something happened which never may.
    pub(crate) fn broken(&mut self, what: impl Into<String>) {
        let what = what.into();
        let at = self.steps.last().cloned().unwrap_or_default();
        self.broken
            .push(format!("{what} (step {}: {at})", self.steps.len()));
    }

    /// The power may be cut after any step: whatever the firmware boots by default is whole.
    fn check_boot_order(&mut self, after: &str) {
        for slot in self.order.clone() {
            if !self.boots(slot) {
                self.broken(format!(
                    "after `{after}` slot {slot} is in BootOrder and cannot boot"
                ));
            }
        }
        if self.order.is_empty() {
            self.broken(format!("after `{after}` BootOrder is empty"));
        }
    }

    /// Whether `slot` holds a whole release and that release's boot image.
    pub(crate) fn boots(&self, slot: Slot) -> bool {
        match (&self.images[index(slot)], &self.disks[index(slot)]) {
            (Some(image), Disk::Whole(manifest)) => *image == manifest.release,
            _ => false,
        }
    }

    fn comes_up(&self, slot: Slot) -> bool {
        self.boots(slot) && !self.stillborn.contains(&self.manifest(slot).release)
    }

    /// The release in `slot`, which must be whole.
    pub(crate) fn manifest(&self, slot: Slot) -> Manifest {
        match &self.disks[index(slot)] {
            Disk::Whole(manifest) => (**manifest).clone(),
            other => panic!("slot {slot} holds {other:?}"),
        }
    }

    /// Power on: the one-shot choice, which is gone then, or else the first that comes up.
    pub(crate) fn power_on(&mut self) {
        self.running.clear();
        self.died.clear();
        self.rebooting = false;
        let tried = self.once.take().into_iter().chain(self.order.clone());
        match tried.into_iter().find(|slot| self.comes_up(*slot)) {
            Some(slot) => self.booted = slot,
            None => panic!(
                "nothing boots: order {:?}, images {:?}",
                self.order, self.images
            ),
        }
        self.boots.push(self.booted);
        assert!(
            self.boots.len() < 20,
            "the node boots for ever: {:?}",
            self.boots
        );
    }

    /// How the hook of `domain` behaves in `phase`, in the release that `slot` holds.
    pub(crate) fn hook(&self, domain: &str, slot: Slot, phase: Phase) -> Hook {
        let release = self.manifest(slot).release;
        self.hooks
            .iter()
            .find(|((d, r, p), _)| *d == domain && *r == release && *p == phase)
            .map_or(Hook::Good, |(_, hook)| *hook)
    }

    /// A hook completes, and remembers it in its file system.
    pub(crate) fn complete(&mut self, slot: Slot, domain: &str, flag: &Flag) {
        let key = (slot, domain.to_owned(), flag.txn.to_string(), flag.phase);
        self.done.insert(key.clone());
        *self.completions.entry(key).or_default() += 1;
    }

    pub(crate) fn is_done(&self, slot: Slot, domain: &str, flag: &Flag) -> bool {
        self.done
            .contains(&(slot, domain.to_owned(), flag.txn.to_string(), flag.phase))
    }

    /// How often the hook of `domain` has completed in `phase`, in all.
    pub(crate) fn completed(&self, domain: &str, phase: Phase) -> usize {
        self.completions
            .iter()
            .filter(|((_, d, _, p), _)| d == domain && *p == phase)
            .map(|(_, times)| times)
            .sum()
    }
}

/// The domUs of a release by name.
pub(crate) fn domus(manifest: &Manifest) -> Vec<String> {
    let domus = manifest
        .payloads
        .iter()
        .filter(|payload| payload.domu.is_some());
    domus.map(|payload| payload.domain.clone()).collect()
}
