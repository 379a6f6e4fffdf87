//! The runner on real hooks: shell scripts, good ones and bad ones.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xupg_hooks::{Facts, HookOutcome, HookRun, Phase, Progress, Token};

/// Longer than any hook here needs; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn facts() -> Facts {
    Facts {
        phase: Phase::Boot,
        domain: "web".into(),
        txn: Token::new("t1").unwrap(),
        release: Token::new("2.0").unwrap(),
        from_release: Some(Token::new("1.0").unwrap()),
        slot: None,
        root: None,
    }
}

fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("hook");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run_within(hook: &Path, timeout: Duration) -> (HookOutcome, Vec<Progress>) {
    let facts = facts();
    let mut seen = Vec::new();
    let run = HookRun {
        hook,
        ..HookRun::new(&facts, timeout)
    };
    let outcome = run.run(|progress| seen.push(progress.clone()));
    (outcome, seen)
}

fn run(text: &str) -> (HookOutcome, Vec<Progress>) {
    let dir = tempfile::tempdir().unwrap();
    run_within(&script(&dir, text), PATIENCE)
}

#[test]
fn exit_codes_are_told_apart_and_the_reason_is_the_last_line_of_stderr() {
    for (text, expected) in [
        ("exit 0", HookOutcome::Done),
        (
            "echo noise >&2; echo 'not today' >&2; exit 77",
            HookOutcome::Refused("not today".into()),
        ),
        (
            "echo 'progress: 5 busy'; exit 75",
            HookOutcome::RetryLater("busy".into()),
        ),
        (
            "echo boom >&2; exit 3",
            HookOutcome::Failed("the hook failed (exit code 3): boom".into()),
        ),
        (
            "exit 1",
            HookOutcome::Failed("the hook failed: exit code 1".into()),
        ),
        (
            "kill -9 $$",
            HookOutcome::Failed("the hook failed: killed by signal 9".into()),
        ),
    ] {
        assert_eq!(run(text).0, expected, "{text}");
    }
}

#[test]
fn the_hook_gets_the_facts_and_nothing_of_its_callers_environment() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(
        &dir,
        "env | grep -v '^PWD=\\|^_=\\|^SHLVL=' | sort > \"${0%/*}/env\"; pwd >> \"${0%/*}/env\"; cat >> \"${0%/*}/env\"",
    );
    assert_eq!(run_within(&hook, PATIENCE).0, HookOutcome::Done);
    let env = fs::read_to_string(dir.path().join("env")).unwrap();
    assert_eq!(
        env.lines().collect::<Vec<_>>(),
        [
            "HOME=/root",
            "LC_ALL=C",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "XUPG_DOMAIN=web",
            "XUPG_FROM_RELEASE=1.0",
            "XUPG_PHASE=boot",
            "XUPG_RELEASE=2.0",
            "XUPG_TXN=t1",
            "/",
        ]
    );
}

#[test]
fn garbage_on_stdout_neither_hides_progress_nor_gets_through() {
    let (outcome, seen) = run("echo 'progress: 10 one'
        head -c 300000 /dev/urandom
        echo; head -c 5000000 /dev/zero | tr '\\0' x; echo
        printf 'progress: 20 caf\\303\\251 \\033[31m\\n'
        echo 'progress: 200 no'; echo 'progress: forty'
        printf 'progress: 90 last, without a line end'");
    assert_eq!(outcome, HookOutcome::Done);
    assert_eq!(
        seen.last()
            .map(|last| (last.percent, last.message.as_str())),
        Some((90, "last, without a line end"))
    );
    for progress in seen {
        assert!(progress.percent <= 100);
        assert!(
            progress
                .message
                .bytes()
                .all(|byte| (0x20..=0x7e).contains(&byte))
        );
    }
}

#[test]
fn a_flood_of_progress_is_thinned_out() {
    let started = Instant::now();
    let (outcome, seen) =
        run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo \"progress: 50 $i\"; done");
    assert_eq!(outcome, HookOutcome::Done);
    let most = started.elapsed().as_millis() / 250 + 2;
    assert!(
        seen.len() as u128 <= most,
        "{} reports, {most} allowed",
        seen.len()
    );
    assert_eq!(seen.last().unwrap().message, "20000");
}

#[test]
fn at_the_deadline_the_whole_group_dies_even_if_it_ignores_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(
        &dir,
        "trap '' TERM
        sh -c 'trap \"\" TERM; echo $$ > \"$1\"; while :; do sleep 1; done' x \"${0%/*}/child\" &
        wait; while :; do sleep 1; done",
    );
    assert_eq!(
        run_within(&hook, Duration::from_secs(2)).0,
        HookOutcome::TimedOut
    );
    let child = fs::read_to_string(dir.path().join("child")).unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    // Gone, or a zombie that waits for the machine's init. It was killed, but nobody has waited for it:
    // on a busy machine it may still be on its way.
    let is_dead = |stat: &str| stat.is_empty() || stat.contains(") Z ");
    let patience = Instant::now() + Duration::from_secs(10);
    while !is_dead(&stat()) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_dead(&stat()), "{}", stat());
}

#[test]
fn a_hook_may_clean_up_after_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(
        &dir,
        "trap 'head -c 200000 /dev/zero; echo cleaned > \"${0%/*}/cleaned\"; exit 0' TERM
        while :; do sleep 0.1; done",
    );
    assert_eq!(
        run_within(&hook, Duration::from_secs(1)).0,
        HookOutcome::TimedOut
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("cleaned")).unwrap(),
        "cleaned\n"
    );
}

#[test]
fn a_child_that_keeps_stdout_open_does_not_hold_the_runner() {
    // It would for 60 s; the hook itself ends at once.
    let started = Instant::now();
    let (outcome, seen) = run("echo 'progress: 100 done'; sleep 60 & exit 0");
    assert_eq!((outcome, seen.len()), (HookOutcome::Done, 1));
    assert!(started.elapsed() < Duration::from_secs(50));
}

#[test]
fn cancelling_ends_the_hook() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(
        &dir,
        "echo 'progress: 1 started'; while :; do sleep 0.1; done",
    );
    let (facts, cancel) = (facts(), AtomicBool::new(false));
    let run = HookRun {
        hook: &hook,
        cancel: Some(&cancel),
        ..HookRun::new(&facts, PATIENCE)
    };
    assert_eq!(
        run.run(|_| cancel.store(true, Ordering::Relaxed)),
        HookOutcome::Cancelled
    );
}

#[test]
fn what_cannot_be_run_is_a_failure_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let hook = dir.path().join("hook");
    assert_eq!(run_within(&hook, PATIENCE).0, HookOutcome::NoHook);
    symlink("nowhere", &hook).unwrap();
    let fails = |why: &str| match run_within(&hook, PATIENCE).0 {
        HookOutcome::Failed(message) => {
            assert!(
                message.contains("/hook") && message.contains(why),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    };
    fails("is a link to nothing");
    fs::remove_file(&hook).unwrap();
    fs::create_dir(&hook).unwrap();
    fails("is a directory");
    fs::remove_dir(&hook).unwrap();
    fs::write(&hook, "#!/no/such/interpreter\n").unwrap();
    fails("is not executable");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    fails("cannot run");
}

#[test]
fn in_a_root_the_hook_sees_that_root_only() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root, for chroot(8)"
    );
    let root = tempfile::tempdir().unwrap();
    for dir in ["bin", "opt", "usr/lib/xupg"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.path().join("bin/busybox")).expect("busybox-static is needed");
    symlink("busybox", root.path().join("bin/sh")).unwrap();
    // The hook is reached through an absolute link, which must mean the root's own /opt.
    symlink("/opt/hook", root.path().join("usr/lib/xupg/hook")).unwrap();
    let hook = root.path().join("opt/hook");
    fs::write(
        &hook,
        "#!/bin/sh\n/bin/busybox ls / > /seen; echo \"$XUPG_SLOT\" >> /seen\n",
    )
    .unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();

    let facts = Facts {
        phase: Phase::Stage,
        domain: "dom0".into(),
        slot: Some('b'),
        ..facts()
    };
    let run = HookRun {
        root: Some(root.path()),
        ..HookRun::new(&facts, PATIENCE)
    };
    assert_eq!(run.run(|_| ()), HookOutcome::Done);
    assert_eq!(
        fs::read_to_string(root.path().join("seen")).unwrap(),
        "bin\nopt\nseen\nusr\nb\n"
    );

    fs::remove_file(&hook).unwrap();
    assert!(matches!(run.run(|_| ()), HookOutcome::Failed(why) if why.contains("link to nothing")));
    fs::remove_file(root.path().join("usr/lib/xupg/hook")).unwrap();
    assert_eq!(run.run(|_| ()), HookOutcome::NoHook);
}
