//! Two faults: the power is cut while the node recovers, and releases that are good only once.

use xupg::slot::Slot;
use xupg_hooks::Phase;

use crate::operator::{FULL, Operator};
use crate::release::{overlay, release};
use crate::sweep::{Story, faults_of};
use crate::upgrades::upgraded;
use crate::world::{Fault, Hook, World};

#[test]
fn a_power_cut_after_any_fault_of_an_upgrade_leaves_a_whole_release() {
    let to = overlay("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.apply(&to, FULL));
    };
    let node = || World::installed(&release("1"));
    Story {
        node: &node,
        act: &act,
        to: &to,
        good: true,
    }
    .sweep_twice();
}

#[test]
fn a_power_cut_after_any_fault_of_a_fallback_leaves_a_whole_release() {
    let to = release("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.apply(&to, FULL));
    };
    let node = || {
        let mut world = World::installed(&release("1"));
        world
            .hooks
            .insert(("db", "2".to_owned(), Phase::Boot), Hook::Fails);
        world
    };
    Story {
        node: &node,
        act: &act,
        to: &to,
        good: false,
    }
    .sweep_twice();
}

#[test]
fn a_power_cut_after_any_fault_of_a_rollback_leaves_a_whole_release() {
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
    .sweep_twice();
}

/// The firmware's default has changed, the confirmation is not on record, and the second boot of
/// the trial is bad: the node must still find its way back.
#[test]
fn a_release_that_is_good_only_once_does_not_keep_the_node_rebooting() {
    let to = release("2");
    let act = |operator: &mut Operator| {
        operator.settle(operator.apply(&to, FULL));
    };
    let node = || {
        let mut world = World::installed(&release("1"));
        world
            .hooks
            .insert(("db", "2".to_owned(), Phase::Boot), Hook::GoodOnce);
        world
    };
    Story {
        node: &node,
        act: &act,
        to: &to,
        good: false,
    }
    .sweep();
}

#[test]
fn a_trial_cut_short_by_the_power_is_back_with_a_reason_and_can_be_switched_to_again() {
    let mut operator = Operator::of(World::installed(&release("1")));
    operator.settle(operator.apply(
        &release("2"),
        xupg::plan::Request {
            switch: false,
            ..FULL
        },
    ));
    let steps = operator.world.borrow().steps.len();
    // The power goes in the trial, when dom0's hook has just run.
    let cut = {
        let mut rehearsal = Operator::of(World::installed(&release("1")));
        rehearsal.settle(rehearsal.apply(
            &release("2"),
            xupg::plan::Request {
                switch: false,
                ..FULL
            },
        ));
        rehearsal.settle(rehearsal.switch(true));
        let world = rehearsal.world.borrow();
        world
            .steps
            .iter()
            .position(|step| step == "run dom0's boot hook")
            .expect("there is one")
    };
    assert!(cut > steps);
    operator
        .world
        .borrow_mut()
        .faults
        .insert(cut, Fault::CutAfter);
    operator.settle(operator.switch(true));
    assert_eq!(faults_of(&operator), [""; 0]);
    {
        let world = operator.world.borrow();
        assert_eq!(world.booted, Slot::A);
        assert!(world.journal.failed.is_empty());
        assert_eq!(
            world.journal.upgrade.as_ref().unwrap().phase,
            xupg::journal::Phase::Staged
        );
        assert!(
            operator.boots[1].contains("cut short"),
            "{:?}",
            operator.boots
        );
    }
    operator.settle(operator.switch(true));
    assert_eq!(faults_of(&operator), [""; 0]);
    assert_eq!(operator.world.borrow().booted, Slot::B);
}

/// The active release's boot image is lost, the firmware goes on to the release before it.
#[test]
fn a_node_that_runs_the_old_release_because_the_new_one_does_not_boot_runs_its_domus() {
    let mut world = upgraded();
    world.images[1] = None;
    world.power_on();
    assert_eq!(world.booted, Slot::A);
    let operator = Operator::of(world);
    let outcome = operator.boot_once(Slot::A, &release("1"));
    assert!(
        outcome
            .expect_err("B cannot be the default")
            .to_string()
            .contains("slot B")
    );
    let world = operator.world.borrow();
    assert_eq!(
        world.running.keys().map(String::as_str).collect::<Vec<_>>(),
        ["db", "web"]
    );
}
