//! The agent as a guest's program, on a real xenstored.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod node;

use node::{DOMID, Node, wait_until};
use xupg_hooks::{Phase, State, keys};

/// Notes each run.
const NOTES: &str = "echo \"$XUPG_TXN $XUPG_PHASE $XUPG_DOMAIN $XUPG_FROM_RELEASE $XUPG_RELEASE\" >> \"${0%/*}/runs\"";

#[test]
fn the_hook_of_a_flagged_boot_runs_once_even_if_the_agent_starts_again() {
    let mut node = Node::new(Some(&format!(
        "{NOTES}; echo 'progress: 60 nearly'; exit 0"
    )));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    let answer = node.end("t1", Phase::Boot);
    assert_eq!((answer.state, answer.progress.percent), (State::Done, 100));
    assert_eq!(answer.progress.message, "nearly");

    node.kill_agent();
    node.dom0.remove(&keys::answer_dir(DOMID.into())).unwrap();
    node.start_agent();
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
    assert_eq!(node.text("runs"), "t1 boot web 1.0 2.0\n");
}

#[test]
fn a_hook_that_was_cut_off_with_its_agent_is_ended_and_run_again() {
    let mut node = Node::new(Some(&format!(
        "{NOTES}; [ -e \"${{0%/*}}/first\" ] || {{ echo $$ > \"${{0%/*}}/first\"; sleep 80; }}"
    )));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    wait_until("the hook", || !node.text("first").is_empty());
    node.kill_agent();
    let first = format!("/proc/{}/stat", node.text("first").trim());
    let runs = || std::fs::read_to_string(&first).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(runs(), "a killed agent cannot end its hook");

    node.start_agent();
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
    assert!(!runs(), "the first run went on beside the second");
    assert_eq!(node.text("runs").lines().count(), 2);
}

#[test]
fn quiesce_comes_to_a_running_domu_and_boot_after_it() {
    let mut node = Node::new(Some(NOTES));
    node.start_agent();
    node.raise("t1", Phase::Quiesce);
    assert_eq!(node.end("t1", Phase::Quiesce).state, State::Done);
    node.raise("t1", Phase::Boot);
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
    assert_eq!(
        node.text("runs"),
        "t1 quiesce web 1.0 2.0\nt1 boot web 1.0 2.0\n"
    );
    assert!(node.stop_agent().success());
}

#[test]
fn without_a_hook_there_is_nothing_to_do() {
    let mut node = Node::new(None);
    node.raise("t1", Phase::Boot);
    node.start_agent();
    assert_eq!(node.end("t1", Phase::Boot).state, State::None);
}

#[test]
fn a_failure_and_a_refusal_reach_dom0_with_their_reasons_and_are_not_repeated() {
    for (code, state) in [(3, State::Failed), (77, State::Refused)] {
        let mut node = Node::new(Some(&format!(
            "{NOTES}; echo 'disk is full' >&2; exit {code}"
        )));
        node.raise("t1", Phase::Boot);
        node.start_agent();
        let answer = node.end("t1", Phase::Boot);
        assert_eq!(answer.state, state);
        assert!(
            answer.progress.message.contains("disk is full"),
            "{answer:?}"
        );
        // A later flag is taken up; had the first been tried again, it would show before.
        node.raise("t2", Phase::Boot);
        node.end("t2", Phase::Boot);
        assert_eq!(node.text("runs").lines().count(), 2);
    }
}

#[test]
fn a_hook_that_wants_to_retry_later_is_called_again() {
    let mut node = Node::new(Some(&format!(
        "{NOTES}; [ -e \"${{0%/*}}/ready\" ] || {{ echo busy >&2; exit 75; }}"
    )));
    node.raise("t1", Phase::Quiesce);
    node.start_agent();
    assert_eq!(
        node.wait_for("t1", Phase::Quiesce, &[State::Retry])
            .progress
            .message,
        "busy"
    );
    std::fs::write(node.path("ready"), "").unwrap();
    assert_eq!(node.end("t1", Phase::Quiesce).state, State::Done);
}

#[test]
fn a_hook_that_only_ever_wants_to_retry_fails_when_the_time_is_over() {
    let mut node = Node::new(Some("echo busy >&2; exit 75"));
    node.raise_for("t1", Phase::Quiesce, 7);
    node.start_agent();
    let answer = node.end("t1", Phase::Quiesce);
    assert_eq!(answer.state, State::Failed);
    assert!(
        answer.progress.message.ends_with("retry: busy"),
        "{answer:?}"
    );
}

#[test]
fn a_hook_that_does_not_end_is_ended() {
    let mut node = Node::new(Some("sleep 1000"));
    node.raise_for("t1", Phase::Boot, 1);
    node.start_agent();
    let answer = node.end("t1", Phase::Boot);
    assert_eq!(answer.state, State::Failed);
    assert_eq!(answer.progress.message, "the hook did not end within 1 s");
}

#[test]
fn garbage_from_the_hook_does_not_reach_xenstore() {
    let mut node = Node::new(Some(
        "head -c 400000 /dev/urandom; echo; printf 'progress: 30 \\377\\033[2J\\n'
         head -c 9000 /dev/zero | tr '\\0' x; echo; sleep 1
         head -c 400000 /dev/urandom >&2; exit 9",
    ));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    assert_eq!(node.end("t1", Phase::Boot).state, State::Failed);
    for key in keys::ANSWER_READ_ORDER {
        let value = node
            .dom0
            .read(&keys::answer_key(DOMID.into(), key))
            .unwrap();
        assert!(value.len() <= xupg_hooks::answers::VALUE_MAX);
        assert!(
            value.iter().all(|byte| (0x20..=0x7e).contains(byte)),
            "{key}: {value:?}"
        );
    }
}

#[test]
fn a_flag_that_makes_no_sense_is_left_alone_and_a_good_one_followed() {
    let mut node = Node::new(Some(NOTES));
    node.raise("t1", Phase::Boot);
    let key = |name| keys::flag_key(DOMID.into(), name);
    node.dom0.write(&key(keys::flag::TXN), b"t 1\xff").unwrap();
    node.start_agent();
    node.dom0.write(&key(keys::flag::TXN), "t1").unwrap();
    node.dom0.write(&key(keys::flag::TIMEOUT), "soon").unwrap();
    node.dom0.write(&key(keys::flag::PHASE), "stage").unwrap();
    node.raise("t2", Phase::Boot);
    assert_eq!(node.end("t2", Phase::Boot).state, State::Done);
    assert_eq!(node.text("runs"), "t2 boot web 1.0 2.0\n");
}

#[test]
fn the_agent_finds_a_restarted_xenstored() {
    let mut node = Node::new(Some(NOTES));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    node.end("t1", Phase::Boot);
    node.restart_xenstored();
    node.raise("t1", Phase::Boot);
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
    node.raise("t2", Phase::Quiesce);
    assert_eq!(node.end("t2", Phase::Quiesce).state, State::Done);
    assert_eq!(node.text("runs").lines().count(), 2);
}

#[test]
fn the_agent_outlives_a_xenstored_that_stands_still() {
    let mut node = Node::new(Some(&format!(
        "{NOTES}; sleep 1; echo 'progress: 50 on'; sleep 9"
    )));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    wait_until("the hook", || !node.text("runs").is_empty());
    node.xenstored.freeze().unwrap();
    wait_until("the hook's end", || !node.text("state/done").is_empty());
    node.xenstored.thaw().unwrap();
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
}

#[test]
fn a_stopped_agent_ends_its_hook_and_leaves_the_rest_to_its_successor() {
    let mut node = Node::new(Some(&format!(
        "{NOTES}; [ $(wc -l < \"${{0%/*}}/runs\") -gt 1 ] || sleep 1000"
    )));
    node.raise("t1", Phase::Boot);
    node.start_agent();
    wait_until("the hook", || !node.text("runs").is_empty());
    assert!(node.stop_agent().success());
    node.start_agent();
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
}

#[test]
fn once_follows_the_flag_to_its_end_and_exits() {
    let node = Node::new(Some(NOTES));
    let once = || node.agent_command().arg("--once").status().unwrap();
    assert!(once().success());
    assert_eq!(node.text("runs"), "");
    node.raise("t1", Phase::Rollback);
    assert!(once().success());
    assert_eq!(
        node.answer("t1", Phase::Rollback).unwrap().state,
        State::Done
    );
    assert_eq!(node.text("runs"), "t1 rollback web 1.0 2.0\n");
}

#[test]
fn a_bad_command_line_is_refused() {
    let node = Node::new(None);
    for bad in [&["--what"][..], &["--hook"], &["x"]] {
        let status = node.agent_command().args(bad).status().unwrap();
        assert_eq!(status.code(), Some(2), "{bad:?}");
    }
}
