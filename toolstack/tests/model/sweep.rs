//! Everything goes wrong in turn, and what must hold whatever happens.

use xupg::journal::{Outcome as Ending, Phase};
use xupg::report::Event;
use xupg_images::manifest::Manifest;

use crate::operator::{FULL, Operator};
use crate::release::name;
use crate::world::{Disk, Fault, World, domus, index};

/// One story: a node, and what is done to it until it rests.
pub(crate) struct Story<'a> {
    pub(crate) node: &'a dyn Fn() -> World,
    pub(crate) act: &'a dyn Fn(&mut Operator),
    /// The release that a retry shall bring.
    pub(crate) to: &'a Manifest,
    /// Whether that release is good, so that nothing but the fault can fail it.
    pub(crate) good: bool,
}

impl Story<'_> {
    /// Without any fault.
    pub(crate) fn told(&self) -> Operator {
        self.with(&[])
    }

    fn with(&self, faults: &[(usize, Fault)]) -> Operator {
        let mut world = (self.node)();
        world.faults = faults.iter().copied().collect();
        let mut operator = Operator::of(world);
        (self.act)(&mut operator);
        operator
    }

    /// With every fault at every step.
    pub(crate) fn sweep(&self) {
        let steps = self.steps(&[]);
        for at in 0..steps {
            for fault in Fault::ALL {
                self.check(&[(at, fault)]);
            }
        }
    }

    /// With every fault at every step, and a power cut at every step that comes after it.
    pub(crate) fn sweep_twice(&self) {
        for at in 0..self.steps(&[]) {
            for fault in Fault::ALL {
                for then in at + 1..self.steps(&[(at, fault)]) {
                    for cut in Fault::CUTS {
                        self.check(&[(at, fault), (then, cut)]);
                    }
                }
            }
        }
    }

    fn steps(&self, faults: &[(usize, Fault)]) -> usize {
        self.with(faults).world.borrow().steps.len()
    }

    fn check(&self, faults: &[(usize, Fault)]) {
        let mut operator = self.with(faults);
        let context = |operator: &Operator| {
            let world = operator.world.borrow();
            let steps: Vec<_> = world.steps.iter().enumerate().collect();
            format!("{faults:?}, boots {:?}, steps {steps:?}", operator.boots)
        };
        let found = faults_of(&operator);
        assert!(found.is_empty(), "{found:#?}\n{}", context(&operator));
        let blamed = !operator.world.borrow().journal.failed.is_empty();
        let cuts_only = faults.iter().all(|(_, fault)| fault.is_cut());
        let tried = {
            let world = operator.world.borrow();
            world.boots.iter().any(|slot| *slot != world.boots[0])
        };
        assert!(
            !(self.good && blamed) || operator.cut_before_trial || (tried && !cuts_only),
            "the release is blamed for what it did not do\n{}",
            context(&operator)
        );
        self.retry(&mut operator);
        let found = faults_of(&operator);
        assert!(
            found.is_empty(),
            "after a retry: {found:#?}\n{}",
            context(&operator)
        );
        let world = operator.world.borrow();
        assert_eq!(
            world.manifest(world.booted).release,
            self.to.release,
            "{}",
            context(&operator)
        );
        assert!(world.journal.upgrade.is_none(), "{}", context(&operator));
    }

    /// Whatever was bad is good now. A release that was blamed needs `--force`.
    fn retry(&self, operator: &mut Operator) {
        {
            let mut world = operator.world.borrow_mut();
            world.faults.clear();
            world.hooks.clear();
            world.stillborn.clear();
            world.ignores_shutdown.clear();
            world.does_not_start.clear();
        }
        let blamed = operator
            .world
            .borrow()
            .journal
            .failed
            .iter()
            .any(|f| f.release == name(self.to));
        if blamed {
            let refused = operator
                .settle(operator.apply(self.to, FULL))
                .expect("no cut");
            let refusal = refused.expect_err("a failed release is refused");
            assert_eq!(refusal.kind().exit_code(), 3);
            assert!(
                refusal.to_string().contains("has failed on this node"),
                "{refusal}"
            );
        }
        let request = xupg::plan::Request {
            force: blamed,
            ..FULL
        };
        let ended = operator
            .settle(operator.apply(self.to, request))
            .expect("no cut");
        ended.expect("a retry succeeds");
    }
}

/// What is wrong with a node at rest.
pub(crate) fn faults_of(operator: &Operator) -> Vec<String> {
    let world = operator.world.borrow();
    let journal = &world.journal;
    let mut found = world.broken.clone();
    let mut must = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    let active = world.booted;
    let standby = !active;

    must(
        world.order.first() == Some(&active),
        format!("{active} runs and {:?} is next", world.order),
    );
    must(
        journal.confirmed == active,
        format!("{} is confirmed, {active} runs", journal.confirmed),
    );
    must(
        world.removable == active,
        format!("the removable image is {}'s", world.removable),
    );
    must(
        world.once.is_none(),
        format!("BootNext {:?} is left", world.once),
    );

    let phase = journal.upgrade.as_ref().map(|upgrade| upgrade.phase);
    let told = |domain: &str| told_failed(&world, domain);
    // Where the journal cannot be written after a failure, somebody is told; the next boot ends it.
    let rests = matches!(phase, None | Some(Phase::Staged)) || told("dom0");
    must(rests, format!("the node rests in {phase:?}"));
    let went = world.boots.iter().any(|slot| *slot != world.boots[0]);
    let reason = match journal.last.as_ref().map(|ended| &ended.outcome) {
        Some(Ending::FellBack(reason) | Ending::Abandoned(reason)) => !reason.message.is_empty(),
        Some(Ending::Confirmed | Ending::RolledBack) => true,
        None => false,
    };
    must(
        reason || !went || operator.cut_before_trial,
        "the node went there and back, and nobody knows why".to_owned(),
    );

    for slot in [active, standby] {
        let holds = match &world.disks[index(slot)] {
            Disk::Whole(manifest) => Some(name(manifest)),
            Disk::Nothing | Disk::Partial => None,
        };
        match journal.release(slot) {
            None => {
                must(
                    slot == standby,
                    "the journal does not know what runs".to_owned(),
                );
                must(
                    !world.order.contains(&slot),
                    format!("{slot} holds nothing and may boot"),
                );
            }
            Some(release) => {
                must(
                    world.boots(slot),
                    format!("{slot} shall hold {} and cannot boot", release.version),
                );
                must(
                    holds.as_ref() == Some(release),
                    format!("{slot} holds {holds:?}, not {release:?}"),
                );
            }
        }
    }

    let manifest = world.manifest(active);
    for domu in domus(&manifest) {
        let alive = world.running.get(&domu);
        must(
            alive.is_some() || told(&domu),
            format!("`{domu}` does not run and nobody is told"),
        );
        must(
            alive.is_none_or(|a| a.slot == active),
            format!("`{domu}` runs from the other slot"),
        );
    }
    for (completed, times) in &world.completions {
        must(
            *times == 1,
            format!("{completed:?} completed {times} times"),
        );
    }
    found
}

/// Whether the last that was told of `domain` is that it failed.
fn told_failed(world: &World, domain: &str) -> bool {
    let told = world.events.iter().rev().find_map(|event| match event {
        Event::Domain {
            domain: whose,
            state,
            ..
        } if whose == domain => Some(state.as_str()),
        _ => None,
    });
    told == Some("failed")
}
