//! The agent as an init system has it: the scripts of `system/`, and the program as it is shipped.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod node;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use node::Node;
use xupg_hooks::{Phase, State};

fn system(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../system")
        .join(name)
}

/// A script of `system/`, with the agent and the files of this node.
fn script(node: &Node, shell: &[&str], name: &str) -> Command {
    let agent = node.agent_command();
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(system(name));
    command
        .env("XUPG_AGENT", env!("CARGO_BIN_EXE_xupg-agent"))
        .env("XUPG_AGENT_PIDFILE", node.path("pid"))
        .env("XUPG_AGENT_LOG", node.path("log"))
        .envs(
            agent
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null());
    command
}

fn options(node: &Node) -> Vec<String> {
    let agent = node.agent_command();
    agent
        .get_args()
        .map(|argument| argument.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_sysvinit_script_starts_stops_and_tells() {
    for shell in [&["dash"][..], &["busybox", "sh"]] {
        let node = Node::new(Some("exit 0"));
        let call = |verb: &str| -> Output {
            script(&node, shell, "xupg-agent.sysvinit")
                .arg(verb)
                .env("XUPG_AGENT_OPTIONS", options(&node).join(" "))
                .output()
                .unwrap()
        };
        assert_eq!(call("status").status.code(), Some(3));
        assert!(call("start").status.success());
        assert!(call("start").status.success(), "started twice is started");
        let pid = node.text("pid");
        node.raise("t1", Phase::Boot);
        assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
        assert!(String::from_utf8_lossy(&call("status").stdout).contains(pid.trim()));
        assert!(call("restart").status.success());
        assert_ne!(node.text("pid"), pid);
        assert!(call("stop").status.success());
        assert!(call("stop").status.success(), "stopped twice is stopped");
        assert_eq!(call("status").status.code(), Some(3));
        assert_eq!(call("dance").status.code(), Some(2));
        assert!(
            node.text("log").contains("running the hook"),
            "{}",
            node.text("log")
        );

        // A pid file that names somebody else.
        std::fs::write(node.path("pid"), "1\n").unwrap();
        assert_eq!(call("status").status.code(), Some(3));
    }
}

#[test]
fn the_busybox_script_becomes_the_agent() {
    let node = Node::new(Some("exit 0"));
    let mut init = script(&node, &["busybox", "sh"], "xupg-agent.busybox")
        .args(options(&node))
        .spawn()
        .unwrap();
    node.raise("t1", Phase::Boot);
    assert_eq!(node.end("t1", Phase::Boot).state, State::Done);
    let program = std::fs::read_link(format!("/proc/{}/exe", init.id())).unwrap();
    assert_eq!(program, Path::new(env!("CARGO_BIN_EXE_xupg-agent")));
    init.kill().unwrap();
    init.wait().unwrap();
}

/// systemd's own judgement. Programs that are not installed here are no fault of the unit.
#[test]
fn systemd_understands_the_units() {
    for unit in [
        "xupg-agent.service",
        "xupg-boot.service",
        "xupg-overdue.service",
        "xupg-overdue.timer",
    ] {
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(system(unit))
            .output()
            .expect("systemd-analyze is needed");
        let complaints = String::from_utf8_lossy(&output.stderr);
        let faults: Vec<_> = complaints
            .lines()
            .filter(|line| line.contains(unit))
            .filter(|line| !line.contains("is not executable") && !line.contains("not found"))
            .collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

/// What goes into every domU: static, and small.
#[test]
fn the_shipped_program_is_static_and_under_three_mebibytes() {
    // The workspace's own target directory: whoever builds images can use what is built here.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let triple = "x86_64-unknown-linux-gnu";
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "agent",
            "-p",
            "xupg-agent",
            "--target",
            triple,
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(status.success());
    let program = target.join(triple).join("agent/xupg-agent");
    let size = std::fs::metadata(&program).unwrap().len();
    assert!(size < 3 << 20, "{size} bytes");
    let headers = Command::new("readelf")
        .arg("-ld")
        .arg(&program)
        .output()
        .unwrap();
    let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
    assert!(headers.contains("LOAD"), "{headers}");
    for dynamic in ["INTERP", "NEEDED"] {
        assert!(!headers.contains(dynamic), "{headers}");
    }
    // It starts where there is nothing else at all.
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(&program, root.path().join("xupg-agent")).unwrap();
    let version = Command::new("chroot")
        .arg(root.path())
        .args(["/xupg-agent", "--version"])
        .output();
    let version = version.unwrap();
    assert!(
        version.stdout.starts_with(b"xupg-agent "),
        "{version:?}: this test needs root"
    );
}
