//! A node as a place, in a folder that stands for one.

use std::fs;
use std::path::Path;

use xupg::error::Kind;
use xupg::node::{Node, Region};
use xupg::slot::Slot;

/// A folder with these files in it.
fn node(files: &[(&str, &str)]) -> (tempfile::TempDir, Node) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (path, content) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        fs::write(path, content).expect("writable");
    }
    let node = Node::at(directory.path());
    (directory, node)
}

#[test]
fn the_booted_slot_is_what_the_command_line_says_last() {
    for (line, slot) in [
        ("xupg.slot=a", Slot::A),
        ("root=PARTLABEL=xupg-b ro xupg.slot=b quiet\n", Slot::B),
        ("xupg.slot=a console=hvc0 xupg.slot=b", Slot::B),
    ] {
        let (_directory, node) = node(&[("proc/cmdline", line)]);
        assert_eq!(node.booted().unwrap(), slot, "{line}");
    }
}

#[test]
fn a_command_line_without_a_slot_is_refused() {
    for line in [
        "",
        "root=/dev/sda1",
        "xupg.slot=",
        "xupg.slot=c",
        "noxupg.slot=a",
        "xupg.slot",
    ] {
        let (_directory, node) = node(&[("proc/cmdline", line)]);
        let error = node.booted().unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{line}");
        assert!(error.to_string().contains("xupg.slot"), "{error}");
    }
}

#[test]
fn the_second_lock_is_busy_and_the_first_one_is_freed_when_it_goes() {
    let (_directory, node) = node(&[("run/.keep", "")]);
    let first = node.lock().unwrap();
    let error = node.lock().unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Busy, 4));
    drop(first);
    node.lock().unwrap();
}

#[test]
fn a_configuration_is_read_and_anything_else_refused() {
    let path = "etc/xupg/node.json";
    let (_directory, good) = node(&[(path, r#"{"schema":1,"compatible":"lab"}"#)]);
    assert_eq!(good.config().unwrap().compatible, "lab");
    for bad in [
        "",
        "[]",
        r#"{"schema":2,"compatible":"lab"}"#,
        r#"{"schema":1}"#,
        r#"{"schema":1,"compatible":"lab","typo":true}"#,
    ] {
        let (_directory, node) = node(&[(path, bad)]);
        let error = node.config().unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{bad}");
        assert!(error.to_string().contains("node.json"), "{error}");
    }
    let (_directory, nothing) = node(&[]);
    assert_eq!(nothing.config().unwrap_err().kind(), Kind::Refused);
}

#[test]
fn a_slot_is_its_partition_by_label_and_without_one_it_is_refused() {
    let (directory, node) = node(&[
        ("etc/xupg/node.json", r#"{"schema":1,"compatible":"lab"}"#),
        ("dev/disk/by-partlabel/xupg-b", ""),
    ]);
    let config = node.config().unwrap();
    let device = directory.path().join("dev/disk/by-partlabel/xupg-b");
    let region = Region {
        device,
        offset: 0,
        bytes: None,
    };
    assert_eq!(node.slot_region(Slot::B, &config).unwrap(), region);
    let error = node.slot_region(Slot::A, &config).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.to_string().contains("no partition labelled `xupg-a`"),
        "{error}"
    );
}

#[test]
fn only_the_root_of_the_running_system_is_live() {
    assert!(Node::at("/").is_live());
    let (directory, folder) = node(&[]);
    assert!(!folder.is_live());
    assert_eq!(folder.path("/boot/efi"), directory.path().join("boot/efi"));
    assert_eq!(Node::at("/").path("/boot/efi"), Path::new("/boot/efi"));
}
