//! The example hooks, run as a domU runs them: by the agent, told by a flag.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use node::Node;
use xupg_hooks::{Phase, State};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name)
}

/// A node with an example for its hook. An example knows its files by variables, which a hook's
/// clean environment does not have: a line at its head sets them.
fn node_with(name: &str, files: &[&str]) -> Node {
    let node = Node::new(None);
    let text = fs::read_to_string(example(name)).unwrap();
    let (shebang, rest) = text.split_once('\n').unwrap();
    let settings: String = files
        .iter()
        .map(|pair| {
            let (variable, file) = pair.split_once('=').unwrap();
            format!("{variable}={}\n", node.path(file).display())
        })
        .collect();
    node.install(format!("{shebang}\n{settings}{rest}").as_bytes());
    node
}

#[test]
fn web_converts_its_configuration_and_only_once() {
    let mut node = node_with(
        "web-migrate-config",
        &["WEB_CONFIG=web.conf", "HOOK_LOG=log"],
    );
    fs::write(node.path("web.conf"), "# mine\nport=8080\nroot=/srv/www\n").unwrap();
    let converted = "format=2\n# mine\nlisten=0.0.0.0:8080\ndocroot=/srv/www\n";
    node.start_agent();
    // The second transaction finds the work done.
    for txn in ["t1", "t2"] {
        node.raise(txn, Phase::Boot);
        let answer = node.end(txn, Phase::Boot);
        assert_eq!(
            (answer.state, answer.progress.message.as_str()),
            (State::Done, "ready to serve")
        );
        assert_eq!(node.text("web.conf"), converted);
    }
    assert_eq!(
        node.text("log"),
        "t1 boot web 2.0 done\nt2 boot web 2.0 done\n"
    );
}

#[test]
fn web_without_its_configuration_fails_with_the_reason() {
    let mut node = node_with(
        "web-migrate-config",
        &["WEB_CONFIG=web.conf", "HOOK_LOG=log"],
    );
    node.raise("t1", Phase::Boot);
    node.start_agent();
    let answer = node.end("t1", Phase::Boot);
    assert_eq!(answer.state, State::Failed);
    assert!(
        answer.progress.message.ends_with("web.conf is missing"),
        "{answer:?}"
    );
}

const DB: [&str; 4] = [
    "DB_DATA=data",
    "DB_BUSY=busy",
    "DB_STOP=stop",
    "HOOK_LOG=log",
];

#[test]
fn db_waits_for_its_backup_then_stops_its_service() {
    let mut node = node_with("db-schema-upgrade", &DB);
    fs::write(node.path("busy"), "").unwrap();
    fs::write(
        node.path("stop"),
        format!("#!/bin/sh\n: > {}\n", node.path("stopped").display()),
    )
    .unwrap();
    assert!(
        Command::new("chmod")
            .arg("755")
            .arg(node.path("stop"))
            .status()
            .unwrap()
            .success()
    );
    node.raise("t1", Phase::Quiesce);
    node.start_agent();
    let answer = node.wait_for("t1", Phase::Quiesce, &[State::Retry]);
    assert_eq!(answer.progress.message, "a backup is running");
    assert!(!node.path("stopped").exists());
    fs::remove_file(node.path("busy")).unwrap();
    assert_eq!(node.end("t1", Phase::Quiesce).state, State::Done);
    assert!(node.path("stopped").exists());
}

#[test]
fn db_brings_its_data_to_the_releases_schema_and_refuses_a_newer_one() {
    let mut node = node_with("db-schema-upgrade", &DB);
    fs::write(node.path("data"), "schema 1\nname value with spaces\n").unwrap();
    // Half a file, left by a power cut.
    fs::write(node.path("data.new"), "sche").unwrap();
    node.start_agent();
    for txn in ["t1", "t2"] {
        node.raise(txn, Phase::Boot);
        assert_eq!(node.end(txn, Phase::Boot).state, State::Done);
        assert_eq!(node.text("data"), "schema 2\nname=value with spaces\n");
    }
    fs::write(node.path("data"), "schema 3\n").unwrap();
    node.raise("t3", Phase::Boot);
    assert_eq!(node.end("t3", Phase::Boot).state, State::Refused);
    fs::write(node.path("data"), "rubbish\n").unwrap();
    node.raise("t4", Phase::Boot);
    assert_eq!(node.end("t4", Phase::Boot).state, State::Failed);
    fs::write(node.path("data.new"), "half").unwrap();
    node.raise("t5", Phase::Rollback);
    assert_eq!(node.end("t5", Phase::Rollback).state, State::Done);
    assert!(!node.path("data.new").exists());
}

#[test]
fn busybox_and_dash_understand_every_script() {
    let system = example("../system");
    for script in [
        example("web-migrate-config"),
        example("db-schema-upgrade"),
        system.join("xupg-agent.sysvinit"),
        system.join("xupg-agent.busybox"),
    ] {
        for shell in [&["dash"][..], &["busybox", "sh"]] {
            let status = Command::new(shell[0])
                .args(&shell[1..])
                .arg("-n")
                .arg(&script)
                .status();
            assert!(status.unwrap().success(), "{shell:?} {}", script.display());
        }
    }
}
