//! Good upgrades, good rollbacks, and everything that can come between them.

use xupg::journal::Outcome as Ending;
use xupg::plan::Request;
use xupg::slot::Slot;
use xupg_hooks::Phase;
use xupg_images::manifest::Manifest;

use crate::operator::{FULL, Operator};
use crate::release::{overlay, release};
use crate::sweep::{Story, faults_of};
use crate::world::{Hook, World};

fn node() -> World {
    World::installed(&release("1"))
}

fn upgrade(to: &Manifest, request: Request) -> impl Fn(&mut Operator) {
    move |operator| {
        operator.settle(operator.apply(to, request));
    }
}

/// A node that went from release 1 to 2 and forgot how.
pub(crate) fn upgraded() -> World {
    let mut operator = Operator::of(node());
    operator.settle(operator.apply(&release("2"), FULL));
    let Ok(world) = std::rc::Rc::try_unwrap(operator.world) else {
        panic!("nobody else has it")
    };
    let mut world = world.into_inner();
    assert_eq!(world.booted, Slot::B);
    world.steps.clear();
    world.boots = vec![world.booted];
    world.answered.clear();
    world.events.clear();
    world
}

#[track_caller]
fn ends_on(operator: &Operator, slot: Slot, version: &str) {
    assert_eq!(faults_of(operator), [""; 0]);
    let world = operator.world.borrow();
    assert_eq!(
        (world.booted, world.manifest(slot).release.as_str()),
        (slot, version)
    );
}

#[test]
fn an_upgrade_ends_confirmed_in_the_other_slot_with_every_hook_run_once() {
    let to = release("2");
    let story = Story {
        node: &node,
        act: &upgrade(&to, FULL),
        to: &to,
        good: true,
    };
    let operator = story.told();
    ends_on(&operator, Slot::B, "2");
    let world = operator.world.borrow();
    assert_eq!(operator.boots, ["B: confirmed"]);
    assert_eq!(
        world.journal.last.as_ref().unwrap().outcome,
        Ending::Confirmed
    );
    assert_eq!(world.completed("dom0", Phase::Stage), 1);
    for domain in ["dom0", "db", "web"] {
        assert_eq!(world.completed(domain, Phase::Boot), 1, "{domain}");
    }
    for domain in ["db", "web"] {
        assert_eq!(world.completed(domain, Phase::Quiesce), 1, "{domain}");
    }
}

#[test]
fn whatever_goes_wrong_in_an_upgrade_a_whole_release_runs() {
    let to = release("2");
    Story {
        node: &node,
        act: &upgrade(&to, FULL),
        to: &to,
        good: true,
    }
    .sweep();
}

#[test]
fn whatever_goes_wrong_in_a_cold_upgrade_a_whole_release_runs() {
    let to = release("2");
    let request = Request { cold: true, ..FULL };
    Story {
        node: &node,
        act: &upgrade(&to, request),
        to: &to,
        good: true,
    }
    .sweep();
}

#[test]
fn whatever_goes_wrong_in_an_upgrade_with_an_overlay_a_whole_release_runs() {
    let to = overlay("2");
    Story {
        node: &node,
        act: &upgrade(&to, FULL),
        to: &to,
        good: true,
    }
    .sweep();
}

#[test]
fn whatever_goes_wrong_in_an_upgrade_of_an_upgraded_node_a_whole_release_runs() {
    let to = release("3");
    Story {
        node: &upgraded,
        act: &upgrade(&to, FULL),
        to: &to,
        good: true,
    }
    .sweep();
}

#[test]
fn whatever_goes_wrong_when_stage_and_switch_are_two_commands_a_whole_release_runs() {
    let to = release("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.apply(
            &to,
            Request {
                switch: false,
                ..FULL
            },
        ));
        operator.settle(operator.switch(true));
    };
    let story = Story {
        node: &node,
        act: &act,
        to: &to,
        good: true,
    };
    ends_on(&story.told(), Slot::B, "2");
    story.sweep();
}

#[test]
fn whatever_goes_wrong_when_the_operator_reboots_after_a_switch_a_whole_release_runs() {
    let to = release("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.apply(
            &to,
            Request {
                switch: false,
                ..FULL
            },
        ));
        operator.settle(operator.switch(false));
        operator.reboot();
        operator.settle(crate::operator::Outcome::Ended(Ok(())));
    };
    let story = Story {
        node: &node,
        act: &act,
        to: &to,
        good: true,
    };
    ends_on(&story.told(), Slot::B, "2");
    story.sweep();
}

#[test]
fn a_rollback_ends_on_the_old_release_with_every_rollback_hook_run_once() {
    let to = release("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.rollback());
    };
    let story = Story {
        node: &upgraded,
        act: &act,
        to: &to,
        good: true,
    };
    let operator = story.told();
    ends_on(&operator, Slot::A, "1");
    assert_eq!(operator.boots, ["A: rolled back"]);
    assert_eq!(
        operator.world.borrow().completed("dom0", Phase::Rollback),
        1
    );
}

#[test]
fn whatever_goes_wrong_in_a_rollback_a_whole_release_runs() {
    // A release that is new to both slots: the retry has to stage.
    let to = release("3");
    let act = |operator: &mut Operator| {
        operator.settle(operator.rollback());
    };
    Story {
        node: &upgraded,
        act: &act,
        to: &to,
        good: true,
    }
    .sweep();
}

#[test]
fn a_rollback_hook_cut_short_is_run_again() {
    let cut = |at: usize| {
        let mut world = upgraded();
        world.faults.insert(at, crate::world::Fault::CutAfter);
        let mut operator = Operator::of(world);
        operator.settle(operator.rollback());
        operator
    };
    let whole = cut(usize::MAX);
    let steps = whole.world.borrow().steps.clone();
    let hook = steps
        .iter()
        .position(|step| step == "run dom0's rollback hook")
        .unwrap();
    let operator = cut(hook);
    ends_on(&operator, Slot::A, "1");
    assert_eq!(
        operator.world.borrow().completed("dom0", Phase::Rollback),
        1
    );
}

#[test]
fn a_release_with_no_hook_anywhere_is_upgraded_all_the_same() {
    let to = release("2");
    let bare = || {
        let mut world = node();
        for domain in ["dom0", "db", "web"] {
            for (release, phase) in [
                ("1", Phase::Quiesce),
                ("2", Phase::Stage),
                ("2", Phase::Boot),
            ] {
                world
                    .hooks
                    .insert((domain, release.to_owned(), phase), Hook::Missing);
            }
        }
        world
    };
    let story = Story {
        node: &bare,
        act: &upgrade(&to, FULL),
        to: &to,
        good: true,
    };
    let operator = story.told();
    ends_on(&operator, Slot::B, "2");
    assert!(operator.world.borrow().completions.is_empty());
}
