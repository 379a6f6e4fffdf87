//! Plans are pure: what is asked for and what is seen, in; steps or a refusal, out.

// The model's releases; this test needs not all of them.
#[allow(dead_code)]
#[path = "model/release.rs"]
mod release;

use proptest::prelude::*;
use release::{COMPATIBLE, domu, name, overlay, release};
use xupg::error::Kind;
use xupg::journal::{self, Content, FailedRelease, Journal, Phase, Reason, Upgrade};
use xupg::plan::{self, Observed, Plan, Request, Step};
use xupg::ports::Running;
use xupg::slot::Slot;
use xupg_images::manifest::{Manifest, OnTimeout};

const FULL: Request = Request {
    cold: false,
    force: false,
    switch: true,
};

fn running(names: &[&str]) -> Vec<Running> {
    let domu = |name: &&str| Running {
        name: (*name).to_owned(),
        restarts: false,
    };
    names.iter().map(domu).collect()
}

/// A node that runs release 5 from slot A with both its domUs.
fn node() -> Observed {
    Observed {
        booted: Slot::A,
        compatible: COMPATIBLE.to_owned(),
        journal: Journal::installed(Slot::A, name(&release("5")), "3".to_owned(), 0),
        standby_bytes: 1 << 30,
        running: running(&["web", "db"]),
        saved: Vec::new(),
    }
}

fn upgrade(phase: Phase) -> Upgrade {
    Upgrade {
        txn: "t".to_owned(),
        kind: journal::Kind::Upgrade,
        to: name(&release("6")),
        from: "5".to_owned(),
        target: Slot::B,
        phase,
        started: 0,
        signed_at: 0,
        giving_up: None,
        domains: Default::default(),
    }
}

fn plan(node: &Observed, to: &Manifest, request: Request) -> Plan {
    plan::upgrade(node, to, name(to), request)
        .expect("no refusal")
        .expect("something to do")
}

/// Plans, and expects a refusal with exit code 3 that says `words`.
#[track_caller]
fn refused(node: &Observed, to: &Manifest, request: Request, words: &str) {
    let error = plan::upgrade(node, to, name(to), request).expect_err(words);
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains(words), "{error}");
}

fn shape(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(Step::text).collect()
}

#[test]
fn a_hot_upgrade_stages_while_the_domus_run() {
    let plan = plan(&node(), &release("6"), FULL);
    assert_eq!(plan.from, "5");
    assert_eq!(
        shape(&plan),
        [
            "making slot B unbootable",
            "staging dom0, db, web into slot B",
            "stopping web, db",
            "switching to slot B for one boot",
            "rebooting",
        ]
    );
}

#[test]
fn a_cold_upgrade_stops_the_domus_first() {
    let plan = plan(&node(), &release("6"), Request { cold: true, ..FULL });
    assert_eq!(
        shape(&plan)[1..3],
        ["stopping web, db", "staging dom0, db, web into slot B"]
    );
}

#[test]
fn a_stage_neither_stops_a_domu_nor_reboots() {
    let plan = plan(
        &node(),
        &release("6"),
        Request {
            switch: false,
            ..FULL
        },
    );
    assert_eq!(
        shape(&plan),
        [
            "making slot B unbootable",
            "staging dom0, db, web into slot B"
        ]
    );
}

#[test]
fn an_overlay_is_staged_by_apply_or_cold_and_by_nothing_else() {
    let stage = Request {
        switch: false,
        ..FULL
    };
    plan(&node(), &overlay("6"), FULL);
    plan(
        &node(),
        &overlay("6"),
        Request {
            cold: true,
            ..stage
        },
    );
    refused(&node(), &overlay("6"), stage, "needs its domU at rest");
}

#[test]
fn the_release_that_runs_already_is_nothing_to_do_unless_forced() {
    let to = release("5");
    assert_eq!(plan::upgrade(&node(), &to, name(&to), FULL).unwrap(), None);
    plan(
        &node(),
        &to,
        Request {
            force: true,
            ..FULL
        },
    );
}

#[test]
fn the_standby_slot_is_the_one_that_is_not_booted() {
    let mut node = node();
    node.booted = Slot::B;
    node.journal = Journal::installed(Slot::B, name(&release("5")), "3".to_owned(), 0);
    let plan = plan(&node, &release("6"), FULL);
    assert_eq!(plan.steps[0], Step::Forbid { slot: Slot::A });
}

#[test]
fn a_bundle_for_another_kind_of_node_is_refused() {
    let to = Manifest {
        compatible: "other".to_owned(),
        ..release("6")
    };
    let force = Request {
        force: true,
        ..FULL
    };
    refused(
        &node(),
        &to,
        force,
        "the bundle is for `other`, this node is `lab`",
    );
}

#[test]
fn a_release_below_the_floor_is_refused_and_the_floor_itself_is_not() {
    let force = Request {
        force: true,
        ..FULL
    };
    refused(&node(), &release("2.9"), force, "older than 3");
    plan(&node(), &release("3"), FULL);
}

#[test]
fn a_failed_release_is_refused_with_its_reason_unless_forced() {
    let mut node = node();
    let reason = Reason {
        domain: Some("db".to_owned()),
        message: "its hook failed".to_owned(),
        release_at_fault: true,
    };
    let failed = FailedRelease {
        release: name(&release("6")),
        reason,
    };
    node.journal.failed.push(failed);
    refused(
        &node,
        &release("6"),
        FULL,
        "release 6 has failed on this node: `db`: its hook failed",
    );
    plan(
        &node,
        &release("6"),
        Request {
            force: true,
            ..FULL
        },
    );
    plan(&node, &release("7"), FULL);
    // The same version, built anew, is another release.
    let rebuilt = Manifest {
        description: "with the fix".to_owned(),
        ..release("6")
    };
    plan(&node, &rebuilt, FULL);
}

#[test]
fn a_stage_in_progress_is_begun_anew_and_a_switch_or_trial_is_not_disturbed() {
    for phase in [Phase::Staging, Phase::Staged] {
        let mut node = node();
        node.journal.upgrade = Some(upgrade(phase));
        plan(&node, &release("7"), FULL);
    }
    let force = Request {
        force: true,
        ..FULL
    };
    for (phase, words) in [
        (Phase::Switched, "waits for a reboot"),
        (Phase::Trial, "is on trial"),
    ] {
        let mut node = node();
        node.journal.upgrade = Some(upgrade(phase));
        refused(&node, &release("7"), force, words);
    }
}

#[test]
fn a_release_that_does_not_fit_is_refused() {
    let small = Observed {
        standby_bytes: 20 << 20,
        ..node()
    };
    refused(&small, &release("6"), FULL, "the release needs");
    let mut fat = release("6");
    fat.payloads[1].data_bytes = 17 << 20;
    refused(&node(), &fat, FULL, "`db` needs");
    let mut swarm = release("6");
    swarm.payloads[2].entries = 1 << 20;
    refused(&node(), &swarm, FULL, "`web` needs");
}

#[test]
fn numbers_without_bounds_are_a_refusal_and_no_overflow() {
    let mut absurd = release("6");
    for payload in &mut absurd.payloads {
        (payload.data_bytes, payload.entries) = (u64::MAX, u64::MAX);
        if let Some(image) = &mut payload.image {
            image.bytes = u64::MAX;
        }
    }
    refused(&node(), &absurd, FULL, "the release needs");
}

#[test]
fn a_domu_that_xl_would_start_again_or_that_is_saved_is_refused() {
    let mut restarting = node();
    restarting.running[0].restarts = true;
    refused(
        &restarting,
        &release("6"),
        FULL,
        "`web` would be started again",
    );
    let saved = Observed {
        saved: vec!["db".to_owned()],
        ..node()
    };
    refused(&saved, &release("6"), FULL, "`db` has a saved state");
}

#[test]
fn domus_stop_in_the_opposite_order_of_their_start_and_strangers_first() {
    let mut to = release("6");
    to.payloads.push(domu("auth", 20, true));
    let node = Observed {
        running: running(&["db", "stranger", "auth", "web"]),
        ..node()
    };
    let plan = plan(&node, &to, FULL);
    let Step::StopDomUs { domus } = &plan.steps[2] else {
        panic!("{:?}", plan.steps)
    };
    let order: Vec<_> = domus.iter().map(|stop| stop.domain.as_str()).collect();
    assert_eq!(order, ["stranger", "web", "auth", "db"]);
    assert_eq!(
        (domus[0].quiesce_s, domus[0].on_timeout),
        (0, OnTimeout::Fail)
    );
    assert_eq!((domus[1].quiesce_s, domus[1].shutdown_s), (30, 120));
}

#[test]
fn a_domu_that_does_not_run_is_not_stopped() {
    let node = Observed {
        running: Vec::new(),
        ..node()
    };
    assert_eq!(
        shape(&plan(&node, &release("6"), FULL))[2],
        "stopping no domUs"
    );
}

#[test]
fn a_switch_alone_leaves_the_domus_and_with_a_reboot_stops_them() {
    let staged = upgrade(Phase::Staged);
    let alone = plan::switch(&node(), &release("5"), &staged, false).unwrap();
    assert_eq!(shape(&alone), ["switching to slot B for one boot"]);
    let through = plan::switch(&node(), &release("5"), &staged, true).unwrap();
    assert_eq!(
        shape(&through),
        [
            "stopping web, db",
            "switching to slot B for one boot",
            "rebooting"
        ]
    );
}

#[test]
fn a_rollback_needs_a_whole_release_in_the_other_slot_and_nothing_in_progress() {
    let error = plan::rollback(&node(), None).unwrap_err();
    assert!(
        error.to_string().contains("slot B holds no whole release"),
        "{error}"
    );

    let mut node = node();
    node.journal
        .set_content(Slot::B, Content::Release(name(&release("4"))));
    let plan = plan::rollback(&node, Some(&release("5"))).unwrap();
    assert_eq!((plan.from.as_str(), plan.to.version.as_str()), ("5", "4"));
    assert_eq!(shape(&plan)[0], "stopping web, db");

    node.journal.upgrade = Some(upgrade(Phase::Staged));
    let error = plan::rollback(&node, None).unwrap_err();
    assert!(
        error.to_string().contains("an upgrade to 6 is staged"),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::Refused);
}

proptest! {
    #[test]
    fn no_plan_ever_touches_the_booted_slot_and_each_ends_as_it_was_asked_to(
        booted in prop::sample::select(vec![Slot::A, Slot::B]),
        (cold, force, switch, overlaid) in any::<(bool, bool, bool, bool)>(),
        version in "[1-9](\\.[0-9]){0,2}",
        standby_bytes in 0u64..1 << 27,
        names in prop::collection::btree_set("[a-z]{1,3}|db|web", 0..5),
    ) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let journal = Journal::installed(booted, name(&release("5")), "3".to_owned(), 0);
        let node = Observed { booted, journal, standby_bytes, running: running(&names), ..node() };
        let to = if overlaid { overlay(&version) } else { release(&version) };
        let request = Request { cold, force, switch };
        let Ok(Some(plan)) = plan::upgrade(&node, &to, name(&to), request) else { return Ok(()) };
        let at = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
        for step in &plan.steps {
            if let Step::Forbid { slot } | Step::Stage { slot, .. } | Step::Switch { slot } = step {
                prop_assert_eq!(*slot, !booted);
            }
            if let Step::StopDomUs { domus } = step {
                prop_assert_eq!(domus.len(), names.len(), "every domU, once");
            }
        }
        prop_assert_eq!(at(|s| matches!(s, Step::Forbid { .. })), Some(0));
        let stop = at(|s| matches!(s, Step::StopDomUs { .. }));
        let stage = at(|s| matches!(s, Step::Stage { .. }));
        prop_assert_eq!(stop.is_some(), switch || cold);
        prop_assert_eq!(stop.is_some() && stop < stage, cold);
        prop_assert_eq!(plan.steps.last() == Some(&Step::Reboot), switch);
        let switched = at(|s| matches!(s, Step::Switch { .. }));
        prop_assert!(!switch || stop < switched);
    }
}
