//! The real program on a node in a folder: real bundles, a real disk image, real mounts. What
//! needs a hypervisor is shown on nested Xen.

#![allow(missing_docs)]
// A test that cannot set its scene has failed.
#![allow(clippy::unwrap_used)]

mod place;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use place::{BlockDevice, Place, Ran};
use rustix::fs::{FlockOperation, flock};

#[test]
fn a_release_is_staged_verified_switched_to_and_thrown_away() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});

    let plan = place.xupg(&["-N", "stage", &bundle]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert!(
        plan.stdout.contains("staging dom0, web into slot B"),
        "{}",
        plan.stdout
    );
    assert_eq!(place.status()["state"], "idle", "a dry run changes nothing");

    let staged = place.xupg(&["stage", &bundle]);
    assert_eq!(staged.code, 0, "{}", staged.stderr);
    let status = place.status();
    assert_eq!(status["state"], "staged");
    assert_eq!(status["standby"]["version"], "2.0");
    assert_eq!(status["next"], "a", "nothing that boots has changed");
    place.look_into("xupg-b", |root| {
        assert_eq!(
            fs::read_to_string(root.join("usr/lib/xupg/release")).unwrap(),
            "2.0\n"
        );
        assert!(root.join("var/lib/xupg/images/web.img").is_file());
        assert!(
            root.join("etc/xupg/trust/vendor.pem").is_file(),
            "the node's own files"
        );
    });
    let verified = place.xupg(&["verify"]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    for (slot, code) in [("standby", 0), ("b", 0), ("active", 3), ("a", 3)] {
        let ran = place.xupg(&["verify", "--slot", slot]);
        assert_eq!(ran.code, code, "{slot}: {}", ran.stderr);
    }

    assert_eq!(place.xupg(&["switch"]).code, 0);
    let status = place.status();
    assert_eq!(
        (&status["state"], &status["next"]),
        (&"switched".into(), &"b".into())
    );
    let again = place.xupg(&["stage", &bundle]);
    assert_eq!(again.code, 3, "{}", again.stderr);
    assert!(
        again.stderr.contains("xupg switch --cancel"),
        "{}",
        again.stderr
    );

    assert_eq!(place.xupg(&["switch", "--cancel"]).code, 0);
    assert_eq!(place.status()["next"], "a");
    assert_eq!(place.xupg(&["stage", "--discard"]).code, 0);
    let status = place.status();
    assert_eq!(status["state"], "idle");
    assert!(status["standby"].is_null(), "{status:#}");
    assert!(!place.path("node/boot/efi/EFI/xupg/b/xen.efi").exists());
}

#[test]
fn a_trial_that_nobody_judges_goes_back_and_says_why() {
    for (how, words) in [
        ("--overdue", "has not come as far as `xupg boot`"),
        ("--ended", "ended without a verdict"),
    ] {
        let place = Place::installed();
        let bundle = place.bundle("2.0", "vendor", |_| {});
        place.comes_up_in("a");
        assert_eq!(place.xupg(&["stage", &bundle]).code, 0);
        assert_eq!(place.xupg(&["switch"]).code, 0);
        let ran = place.xupg(&["boot", how]);
        assert_eq!((ran.code, place.reboots()), (0, 0), "{how}: {}", ran.stderr);

        place.comes_up_in("b");
        let ran = place.xupg(&["boot", how]);
        assert_eq!((ran.code, place.reboots()), (0, 1), "{how}: {}", ran.stderr);

        place.comes_up_in("a");
        // There is no Xen here, and so no domU comes up; the verdict is on record all the same.
        place.xupg(&["boot"]);
        let status = place.status();
        let outcome = &status["last"]["outcome"];
        assert_eq!(outcome["outcome"], "fell_back", "{how}: {status:#}");
        assert_eq!(outcome["domain"], "dom0", "{how}: {status:#}");
        let message = outcome["message"].as_str().unwrap();
        assert!(message.contains(words), "{how}: {message}");
        let ran = place.xupg(&["boot", how]);
        assert_eq!((ran.code, place.reboots()), (0, 1), "{how}: {}", ran.stderr);
    }
}

#[test]
fn an_overdue_trial_goes_back_without_its_state_partition_too() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    place.comes_up_in("a");
    assert_eq!(place.xupg(&["stage", &bundle]).code, 0);
    assert_eq!(place.xupg(&["switch"]).code, 0);
    let state = place.path("node/var/lib/xupg/state");
    fs::rename(&state, place.path("unmounted")).unwrap();
    fs::create_dir(&state).unwrap();

    place.comes_up_in("b");
    let ran = place.xupg(&["boot", "--overdue"]);
    assert_eq!((ran.code, place.reboots()), (0, 1), "{}", ran.stderr);

    // The default slot must not reboot for ever over it.
    place.comes_up_in("a");
    let ran = place.xupg(&["boot", "--overdue"]);
    assert_eq!((ran.code, place.reboots()), (3, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("journal"), "{}", ran.stderr);
}

#[test]
fn a_trial_that_is_being_judged_is_not_overdue() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    assert_eq!(place.xupg(&["stage", &bundle]).code, 0);
    assert_eq!(place.xupg(&["switch"]).code, 0);
    place.comes_up_in("b");
    let judge = fs::File::create(place.path("node/run/xupg.lock")).unwrap();
    flock(&judge, FlockOperation::LockExclusive).unwrap();
    let ran = place.xupg(&["boot", "--overdue"]);
    assert_eq!((ran.code, place.reboots()), (0, 0), "{}", ran.stderr);
}

#[test]
fn a_bundle_comes_through_a_pipe() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    let root = place.path("node");
    let mut child = place
        .command(&["--root", root.to_str().unwrap(), "stage", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = fs::read(place.path(&bundle)).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(place.status()["standby"]["version"], "2.0");
}

#[test]
fn what_is_refused_changes_nothing_and_says_where_the_node_stands() {
    let place = Place::installed();
    let cases = [
        (
            "a stranger's",
            place.bundle("2.0", "stranger", |_| {}),
            "not trusted",
        ),
        (
            "another node's",
            place.bundle("2.0", "vendor", |s| s["compatible"] = "other".into()),
            "this node is `acme`",
        ),
        (
            "too old",
            place.bundle("0.9", "vendor", |s| s["floor"] = "0.9".into()),
            "older than 1.0",
        ),
        (
            "too big",
            place.bundle("2.0", "vendor", |s| {
                s["payloads"][1]["image"]["bytes"] = (1_u64 << 30).into();
            }),
            "needs",
        ),
        ("no bundle", "trust/vendor.pem".to_owned(), "not a bundle"),
        ("not there", "nowhere.xupg".to_owned(), "No such file"),
    ];
    let before = place.status();
    for (what, bundle, words) in cases {
        let ran = place.xupg(&["stage", &bundle]);
        assert_eq!(ran.code, 3, "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{what}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("node: active A (1.0), next boot"),
            "{what}: {}",
            ran.stderr
        );
        assert_eq!(place.status(), before, "{what}");
    }
}

#[test]
fn a_flipped_byte_in_a_payload_leaves_the_standby_unbootable_and_the_node_unharmed() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    let mut bytes = fs::read(place.path(&bundle)).unwrap();
    // The end is the outer tar's padding; the last payload's last frame ends before it.
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    fs::write(place.path("flipped.xupg"), bytes).unwrap();
    let ran = place.xupg(&["stage", "flipped.xupg"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("standby B is not bootable; a reboot is safe"),
        "{}",
        ran.stderr
    );
    let status = place.status();
    assert_eq!(
        (&status["state"], &status["next"]),
        (&"idle".into(), &"a".into())
    );
    let again = place.xupg(&["stage", &bundle]);
    assert_eq!(
        again.code, 0,
        "the way is free for the good one: {}",
        again.stderr
    );
}

#[test]
fn the_second_of_two_gets_4_and_a_wrong_command_line_2() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    let lock = fs::File::create(place.path("node/run/xupg.lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let ran = place.xupg(&["stage", &bundle]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    drop(lock);
    assert_eq!(place.xupg(&["stage"]).code, 2);
    assert_eq!(place.xupg(&["frobnicate"]).code, 2);
    assert_eq!(place.xupg(&["help"]).code, 0);
    let ran = place.xupg(&["--json", "stage", "nowhere.xupg"]);
    let error: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &error["error"]["kind"]), (3, &"refused".into()));
}

#[test]
fn a_disk_that_cannot_be_a_node_is_refused_and_left_alone() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    let install = |disk: &str, more: &[&str]| {
        let arguments = ["install", disk, "--bundle", &bundle, "--trust", "trust"];
        place.run_here(&[&arguments[..], more].concat())
    };
    let before = fs::read(place.path("node/disk.img")).unwrap();
    let ran = install("node/disk.img", &[]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("not empty"), "{}", ran.stderr);
    assert!(
        !ran.stderr.contains("not bootable"),
        "nothing has happened to it: {}",
        ran.stderr
    );
    assert!(before == fs::read(place.path("node/disk.img")).unwrap());

    let ran = install("small.img", &["--size", "100"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("too few"), "{}", ran.stderr);
    assert!(!place.path("small.img").exists());

    let ran = install("trust", &[]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let ran = install("nowhere.img", &[]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
}

#[test]
fn a_real_disk_becomes_a_node_unless_it_is_in_use() {
    let place = Place::installed();
    let bundle = place.bundle("2.0", "vendor", |_| {});
    let disk = BlockDevice::of(&place.path("disk.raw"), 420 << 20);
    let arguments = [
        "install",
        disk.path(),
        "--esp",
        "40",
        "--state",
        "16",
        "--bundle",
        &bundle,
        "--trust",
        "trust",
    ];
    let ran = place.run_here(&arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let slot = xupg::disk::find(disk.path().as_ref(), "xupg-a").unwrap();
    let look = disk.mount(slot.offset, slot.bytes, &place.path("look-at-disk"));
    let release = look.path().join("usr/lib/xupg/release");
    assert_eq!(fs::read_to_string(release).unwrap(), "2.0\n");
    drop(look);

    // Whoever has it open for himself, a mount above all.
    let user = disk.claim();
    let ran = place.run_here(&[&arguments[..], &["--force"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("it is in use"), "{}", ran.stderr);
    drop(user);
}
