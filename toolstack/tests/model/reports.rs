//! What people and programs are told: the events of an upgrade, and how errors read.

use std::collections::BTreeMap;

use xupg::plan::Step;
use xupg::report::{Event, Status, state_word};
use xupg::slot::Slot;

use crate::operator::{FULL, Operator, Outcome};
use crate::release::release;
use crate::world::{Fault, World};

fn upgraded() -> Operator {
    let mut operator = Operator::of(World::installed(&release("1")));
    operator.settle(operator.apply(&release("2"), FULL));
    operator
}

fn in_words(event: &Event) -> Option<String> {
    match event {
        Event::StepBegan { text, .. } => Some(format!("> {text}")),
        Event::StepEnded {
            step: Step::Reboot, ..
        } => Some("< rebooting".to_owned()),
        Event::StepEnded { .. } => Some("<".to_owned()),
        Event::Domain {
            domain,
            state,
            percent: None,
            ..
        } => Some(format!("{domain} {state}")),
        Event::Domain { .. } | Event::Progress { .. } => None,
        Event::Recorded { journal } => Some(format!(
            "{}, confirmed {}",
            state_word(journal),
            journal.confirmed
        )),
    }
}

#[test]
fn a_good_upgrade_tells_this() {
    let operator = upgraded();
    let told: Vec<_> = operator
        .world
        .borrow()
        .events
        .iter()
        .filter_map(in_words)
        .collect();
    assert_eq!(
        told,
        [
            "> making slot B unbootable",
            "staging, confirmed A",
            "<",
            "> staging dom0, db, web into slot B",
            "staged, confirmed A",
            "<",
            "> stopping web, db",
            "web quiescing",
            "db quiescing",
            "web quiesced",
            "db quiesced",
            "web stopping",
            "web stopped",
            "db stopping",
            "db stopped",
            "<",
            "> switching to slot B for one boot",
            "switched, confirmed A",
            "<",
            "> rebooting",
            "< rebooting",
            // The new dom0.
            "switched, confirmed A",
            "trial, confirmed A",
            "dom0 done",
            "trial, confirmed A",
            "db starting",
            "db running",
            "db running",
            "trial, confirmed A",
            "web starting",
            "web running",
            "web running",
            "trial, confirmed A",
            "db done",
            "trial, confirmed A",
            "web done",
            "trial, confirmed A",
            "idle, confirmed B",
        ]
    );
}

#[test]
fn events_are_json_with_a_name() {
    let operator = upgraded();
    let mut names = BTreeMap::new();
    for event in &operator.world.borrow().events {
        let json = serde_json::to_value(event).unwrap();
        let name = json["event"].as_str().unwrap().to_owned();
        names.entry(name).or_insert(json);
    }
    assert_eq!(
        names["step_began"].to_string(),
        r#"{"event":"step_began","step":{"slot":"b","step":"forbid"},"text":"making slot B unbootable"}"#
    );
    assert_eq!(
        names["domain"].to_string(),
        r#"{"domain":"web","event":"domain","message":"","percent":null,"state":"quiescing"}"#
    );
    assert_eq!(names["recorded"].to_string(), r#"{"event":"recorded"}"#);
    assert!(names.contains_key("step_ended"));
}

#[test]
fn a_failure_reads_from_the_outside_in_and_ends_with_where_the_node_stands() {
    let mut world = World::installed(&release("1"));
    let installing = {
        let operator = upgraded();
        let steps = operator.world.borrow().steps.clone();
        steps
            .iter()
            .position(|step| step == "write the boot image")
            .unwrap()
    };
    world.faults.insert(installing, Fault::ErrorBefore);
    let operator = Operator::of(world);
    let Outcome::Ended(Err(error)) = operator.apply(&release("2"), FULL) else {
        panic!("it succeeds")
    };
    let world = operator.world.borrow();
    let standing = Status::of(&world.journal, Slot::A, Some(Slot::A)).standing();
    assert_eq!(
        error.doing("upgrading to 2").node(standing).to_string(),
        "upgrading to 2\n  while installing the boot image of slot B\n  because write the boot \
         image went wrong\n  node: active A (1), next boot A; standby B is not bootable; a reboot \
         is safe"
    );
}

#[test]
fn where_the_node_stands_warns_of_a_reboot_into_nothing() {
    let operator = Operator::of(World::installed(&release("1")));
    let world = operator.world.borrow();
    assert_eq!(
        Status::of(&world.journal, Slot::A, Some(Slot::B)).standing(),
        "active A (1), next boot B; standby B is not bootable; do not reboot before the boot order \
         is mended"
    );
    assert!(
        Status::of(&world.journal, Slot::A, None)
            .standing()
            .contains("next boot unknown")
    );
}
