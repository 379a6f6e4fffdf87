//! Releases and guests that misbehave: the node goes back by itself, says why and who, and
//! remembers. Then all of it once more with a fault at every step.

use xupg::journal::{Outcome as Ending, Reason};
use xupg::slot::Slot;
use xupg_hooks::Phase;
use xupg_images::manifest::{Manifest, OnTimeout};

use crate::operator::{FULL, Operator, Outcome};
use crate::release::release;
use crate::sweep::{Story, faults_of};
use crate::world::{Hook, World};

fn scripted(domain: &'static str, version: &str, phase: Phase, hook: Hook) -> World {
    let mut world = World::installed(&release("1"));
    world
        .hooks
        .insert((domain, version.to_owned(), phase), hook);
    world
}

fn upgrade(to: &Manifest) -> impl Fn(&mut Operator) {
    move |operator| {
        operator.settle(operator.apply(to, FULL));
    }
}

/// Upgrades `node` to release 2, which fails its trial, and sweeps.
#[track_caller]
fn falls_back(node: &dyn Fn() -> World, culprit: &str, words: &str) {
    let to = release("2");
    let story = Story {
        node,
        act: &upgrade(&to),
        to: &to,
        good: false,
    };
    let operator = story.told();
    assert_eq!(faults_of(&operator), [""; 0]);
    let world = operator.world.borrow();
    assert_eq!(world.booted, Slot::A);
    assert_eq!(world.journal.upgrade, None);
    let Some(Ending::FellBack(reason)) = world.journal.last.as_ref().map(|last| &last.outcome)
    else {
        panic!("{:?}", world.journal.last);
    };
    assert_eq!(reason.domain.as_deref(), Some(culprit));
    assert!(reason.message.contains(words), "{reason}");
    assert_eq!(world.journal.failed.len(), 1, "the release is remembered");
    assert_eq!(
        world.journal.release(Slot::B),
        None,
        "and is not there to be switched to"
    );
    assert!(!world.boots(Slot::B), "nor for the firmware");
    drop(world);
    story.sweep();
}

/// Upgrades `node` to release 2, which is confirmed although one domU is not well, and sweeps.
#[track_caller]
fn confirms_all_the_same(node: &dyn Fn() -> World, domain: &str, state: &str) {
    let to = release("2");
    let story = Story {
        node,
        act: &upgrade(&to),
        to: &to,
        good: true,
    };
    let operator = story.told();
    assert_eq!(faults_of(&operator), [""; 0]);
    let world = operator.world.borrow();
    assert_eq!(world.booted, Slot::B);
    let last = world.journal.last.clone().expect("an upgrade has ended");
    assert_eq!(last.outcome, Ending::Confirmed);
    assert_eq!(last.domains[domain].state, state, "{:?}", last.domains);
    drop(world);
    story.sweep();
}

#[test]
fn a_release_whose_hypervisor_never_comes_up_is_left_by_the_firmware() {
    let node = || {
        let mut world = World::installed(&release("1"));
        world.stillborn.insert("2".to_owned());
        world
    };
    falls_back(&node, "dom0", "never came up");
}

#[test]
fn a_failing_hook_of_dom0_sends_the_node_back() {
    falls_back(
        &|| scripted("dom0", "2", Phase::Boot, Hook::Fails),
        "dom0",
        "its hook failed",
    );
}

#[test]
fn a_failing_hook_of_a_mandatory_domu_sends_the_node_back() {
    falls_back(
        &|| scripted("db", "2", Phase::Boot, Hook::Fails),
        "db",
        "its hook failed: scripted",
    );
}

#[test]
fn a_refusing_hook_of_a_mandatory_domu_sends_the_node_back() {
    falls_back(
        &|| scripted("db", "2", Phase::Boot, Hook::Refuses),
        "db",
        "its hook refused",
    );
}

#[test]
fn a_silent_mandatory_domu_sends_the_node_back() {
    falls_back(
        &|| scripted("db", "2", Phase::Boot, Hook::Silent),
        "db",
        "not reported good within 60 s",
    );
}

#[test]
fn a_mandatory_domu_that_dies_sends_the_node_back() {
    falls_back(
        &|| scripted("db", "2", Phase::Boot, Hook::Dies),
        "db",
        "it died",
    );
}

#[test]
fn a_failing_optional_domu_is_reported_and_the_release_confirmed() {
    confirms_all_the_same(
        &|| scripted("web", "2", Phase::Boot, Hook::Fails),
        "web",
        "failed",
    );
}

#[test]
fn a_silent_optional_domu_is_reported_and_the_release_confirmed() {
    confirms_all_the_same(
        &|| scripted("web", "2", Phase::Boot, Hook::Silent),
        "web",
        "silent",
    );
}

#[test]
fn a_dying_optional_domu_is_reported_and_the_release_confirmed() {
    confirms_all_the_same(
        &|| scripted("web", "2", Phase::Boot, Hook::Dies),
        "web",
        "failed",
    );
}

/// Release 2 is not gone to at all; the domUs run again and nobody blames the release.
#[track_caller]
fn stays(node: &dyn Fn() -> World, words: &str) {
    let to = release("2");
    let story = Story {
        node,
        act: &upgrade(&to),
        to: &to,
        good: true,
    };
    let mut operator = Operator::of(node());
    let Outcome::Ended(Err(error)) = operator.apply(&to, FULL) else {
        panic!("it succeeds")
    };
    assert_eq!(error.kind().exit_code(), 1);
    assert!(error.to_string().contains(words), "{error}");
    operator.settle(Outcome::Ended(Ok(())));
    assert_eq!(faults_of(&operator), [""; 0]);
    let world = operator.world.borrow();
    assert_eq!((world.booted, world.boots.len()), (Slot::A, 1));
    assert!(world.journal.failed.is_empty());
    let Some(Ending::Abandoned(Reason { message, .. })) =
        world.journal.last.as_ref().map(|last| &last.outcome)
    else {
        panic!("{:?}", world.journal.last);
    };
    assert!(error.to_string().contains(message.as_str()), "{message}");
    drop(world);
    story.sweep();
}

#[test]
fn a_failing_stage_hook_of_dom0_ends_the_upgrade_before_the_reboot() {
    stays(
        &|| scripted("dom0", "2", Phase::Stage, Hook::Fails),
        "running dom0's hook for the `stage`",
    );
}

#[test]
fn a_refusing_quiesce_hook_ends_the_upgrade_before_the_reboot() {
    stays(
        &|| scripted("web", "1", Phase::Quiesce, Hook::Refuses),
        "quiescing `web`",
    );
}

#[test]
fn a_guest_that_ignores_shutdown_ends_the_upgrade_where_its_policy_is_fail() {
    let node = || {
        let mut world = World::installed(&release("1"));
        world.ignores_shutdown.insert("db");
        world
    };
    stays(&node, "its policy is `fail`");
}

#[test]
fn a_guest_that_ignores_shutdown_is_destroyed_where_its_policy_says_so() {
    let mut to = release("2");
    for payload in &mut to.payloads {
        if let Some(domu) = &mut payload.domu {
            domu.on_timeout = OnTimeout::Destroy;
        }
    }
    let node = || {
        let mut world = World::installed(&release("1"));
        world.ignores_shutdown.insert("db");
        world
    };
    let story = Story {
        node: &node,
        act: &upgrade(&to),
        to: &to,
        good: true,
    };
    assert_eq!(story.told().world.borrow().booted, Slot::B);
    story.sweep();
}

#[test]
fn a_silent_quiesce_is_no_reason_to_wait_for_ever() {
    let node = || scripted("web", "1", Phase::Quiesce, Hook::Silent);
    let to = release("2");
    let operator = Story {
        node: &node,
        act: &upgrade(&to),
        to: &to,
        good: true,
    }
    .told();
    assert_eq!(operator.boots, ["B: confirmed"]);
}

#[test]
fn a_mandatory_domu_that_does_not_start_sends_the_node_back() {
    let mut world = World::installed(&release("1"));
    world.does_not_start.insert("db");
    let mut operator = Operator::of(world);
    operator.settle(operator.apply(&release("2"), FULL));
    let world = operator.world.borrow();
    assert_eq!(world.booted, Slot::A);
    assert_eq!(world.journal.failed[0].reason.domain.as_deref(), Some("db"));
    assert!(world.running.contains_key("web"), "the others run");
}
