//! File systems that are filled without the kernel: e2fsck finds nothing to say about them, the kernel
//! finds in them what was packed, and goes on working in them.

#![allow(clippy::unwrap_used)] // In functions that tests share, too.

mod keys;
mod lab;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use keys::run;
use lab::forge::{Forged, dir};
use lab::{Lab, Watcher};
use xupg_images::manifest::Part;

const EVERYTHING: &str = r#""allow":{"devices":true,"fifos":true,"setuid":true}"#;

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Looks at an image that holds what was packed, changes it through the kernel and looks again.
fn works(lab: &Lab, image: &Path, folders: usize) {
    let check = || run("e2fsck", &["-fn", image.to_str().unwrap()]);
    check();
    lab.in_image(image, |root| {
        for n in 0..folders {
            fs::create_dir(root.join(format!("new{n}"))).unwrap();
            fs::write(root.join(format!("new{n}/file")), n.to_string().repeat(n)).unwrap();
        }
        for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() && entry.file_name() != "lost+found" {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        fs::write(root.join("again"), noise(300_000)).unwrap();
        assert_eq!(fs::read(root.join("again")).unwrap(), noise(300_000));
    });
    check();
}

/// Stages a dom0 with hardly anything in it, and `web` into an image of so many bytes.
fn stage_web(lab: &Lab, bytes: u64) {
    fs::create_dir_all(lab.path("dom0")).unwrap();
    let bundle = lab.bundle(&format!(
        r#"{{"domain":"dom0","source":"dom0"}},
           {{"domain":"web","source":"web","image":{{"bytes":{bytes}}},{EVERYTHING}}}"#
    ));
    // Read back and compared by the seal.
    let staged = lab.stage(&bundle, &Watcher::default()).unwrap();
    staged.finish().unwrap();
    run("e2fsck", &["-fn", lab.path("slot.img").to_str().unwrap()]);
}

fn web(lab: &Lab, look: impl FnOnce(&Path)) {
    lab.in_slot(|root| look(&root.join("var/lib/xupg/images/web.img")));
}

#[test]
fn trees_of_every_shape_are_sound() {
    let lab = Lab::new();
    let tree = lab.path("web");
    fs::create_dir_all(&tree).unwrap();
    directories(&tree);
    links_and_nodes(&tree);
    attributes(&tree);
    let holes = File::create(tree.join("holes")).unwrap();
    holes.set_len(1 << 31).unwrap();
    // So many that the tree of extents has two levels outside of the inode.
    for n in 0..6_000_u64 {
        holes.write_all_at(b"x", n * 16_384).unwrap();
    }
    // Larger than a group of blocks is, and so around what lies in the middle of the image.
    fs::write(tree.join("large"), noise((140 << 20) + 5)).unwrap();
    lab.empty_slot(400 << 20);
    stage_web(&lab, 300 << 20);
    web(&lab, |image| {
        lab.in_image(image, |root| {
            let blocks = fs::metadata(root.join("holes")).unwrap().blocks();
            assert!((48_000..49_000).contains(&blocks), "{blocks} sectors");
            assert_eq!(fs::metadata(root.join("shared")).unwrap().nlink(), 3);
            assert_eq!(fs::metadata(root.join("many")).unwrap().nlink(), 2 + 900);
            assert_eq!(fs::read(root.join("lost+found/kept")).unwrap(), b"kept");
        });
        works(&lab, image, 300);
    });
}

/// Directories of many blocks that lie far apart, and a `lost+found` with something in it.
fn directories(tree: &Path) {
    for n in 0..900 {
        let folder = tree.join(format!("many/{n:0>200}"));
        fs::create_dir_all(&folder).unwrap();
        for n in 0..3 {
            fs::write(folder.join(n.to_string()), vec![7; n * 3000]).unwrap();
        }
    }
    fs::create_dir(tree.join("flat")).unwrap();
    for n in 0..2000 {
        fs::write(tree.join(format!("flat/{n}")), b"").unwrap();
    }
    // So many that one level of an index is not enough.
    fs::create_dir(tree.join("indexed")).unwrap();
    for n in 0..9000 {
        fs::write(tree.join(format!("indexed/{n:0>220}")), b"").unwrap();
    }
    // Bytes that count as negative numbers.
    fs::create_dir(tree.join("odd")).unwrap();
    for n in 0..400 {
        let name = [
            &[0x80 + (n % 128) as u8, 0xff][..],
            n.to_string().as_bytes(),
        ]
        .concat();
        fs::write(tree.join("odd").join(OsStr::from_bytes(&name)), b"").unwrap();
    }
    // Names of every length, so that entries end everywhere in a block.
    fs::create_dir(tree.join("lengths")).unwrap();
    for n in 1..=255 {
        fs::write(tree.join("lengths").join("n".repeat(n)), b"").unwrap();
    }
    fs::create_dir(tree.join("lost+found")).unwrap();
    fs::write(tree.join("lost+found/kept"), b"kept").unwrap();
    fs::set_permissions(tree.join("lost+found"), PermissionsExt::from_mode(0o751)).unwrap();
}

fn links_and_nodes(tree: &Path) {
    for length in [1, 58, 59, 60, 61, 4095] {
        symlink("t".repeat(length), tree.join(format!("link{length}"))).unwrap();
    }
    fs::write(tree.join("shared"), b"shared").unwrap();
    fs::hard_link(tree.join("shared"), tree.join("a-second-name")).unwrap();
    fs::hard_link(tree.join("shared"), tree.join("lengths/third")).unwrap();
    fs::hard_link(tree.join("link4095"), tree.join("another-link")).unwrap();
    let path = |name: &str| tree.join(name).to_str().unwrap().to_owned();
    for (name, major, minor) in [
        ("old", "1", "3"),
        ("wide", "259", "1048575"),
        ("high", "4095", "255"),
    ] {
        run("mknod", &[&path(name), "b", major, minor]);
    }
    fs::hard_link(tree.join("wide"), tree.join("wide-again")).unwrap();
    run("mkfifo", &[&path("fifo")]);
    for (name, time) in [
        ("old", "1901-12-14 00:00:00.000000001 UTC"),
        ("fifo", "1969-12-31 23:59:59.999999999 UTC"),
        ("shared", "2038-01-19 03:14:08.5 UTC"),
        ("wide", "2446-05-10 00:00:00 UTC"),
    ] {
        run("touch", &["-h", "-d", time, &path(name)]);
    }
    chown(tree.join("shared"), Some(65_536), Some(4_000_000_000)).unwrap();
    fs::set_permissions(tree.join("shared"), PermissionsExt::from_mode(0o6711)).unwrap();
}

fn attributes(tree: &Path) {
    let path = |name: &str| tree.join(name).to_str().unwrap().to_owned();
    let set = |file: &str, name: &str, value: &str| {
        run("setfattr", &["-h", "-n", name, "-v", value, &path(file)]);
    };
    for file in ["small", "large-one", "several", "acl", "capable", "mixed"] {
        fs::write(tree.join(file), file).unwrap();
    }
    set("small", "user.x", "y");
    set("small", "user.empty", "");
    set("large-one", "user.large", &"v".repeat(3_000));
    for n in 0..30 {
        set(
            "several",
            &format!("user.{}", "n".repeat(n + 1)),
            &"v".repeat(n * 2),
        );
    }
    set("mixed", "trusted.overlay.opaque", "y");
    set("mixed", "user.longer", &"w".repeat(90));
    set("mixed", "security.note", "z");
    set("link59", "trusted.of-a-link", "y");
    run("setcap", &["cap_net_raw+ep", &path("capable")]);
    run("setfacl", &["-m", "u:1234:rw,g:77:x", &path("acl")]);
    run("setfacl", &["-d", "-m", "u:1234:rw", &path("flat")]);
    set("lost+found", "user.note", "kept, too");
}

#[test]
fn images_of_every_size_are_sound() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("web/usr/bin")).unwrap();
    for n in 0..60 {
        fs::write(lab.path(&format!("web/usr/bin/{n}")), noise(n * 100)).unwrap();
    }
    lab.empty_slot(5 << 30);
    let group = 128 << 20;
    let sizes = [
        2 << 20,
        8 << 20,
        group - 4096,
        group,
        // A last group that is hardly there.
        group + (4 << 20),
        (3 << 30) + 12_288,
    ];
    for bytes in sizes {
        stage_web(&lab, bytes);
        web(&lab, |image| {
            assert_eq!(fs::metadata(image).unwrap().len(), bytes);
            works(&lab, image, if bytes < 8 << 20 { 50 } else { 300 });
        });
    }
}

#[test]
fn a_slot_with_the_rests_of_another_release_is_sound() {
    let lab = Lab::new();
    let size = 192 << 20;
    // Nothing that is on the disk already may come back to light.
    fs::write(lab.path("slot.img"), vec![0xA5; size]).unwrap();
    fs::create_dir_all(lab.path("dom0/etc")).unwrap();
    for n in 0..5000 {
        fs::write(lab.path(&format!("dom0/etc/{n}")), n.to_string()).unwrap();
    }
    let bundle = lab.bundle(r#"{"domain":"dom0","source":"dom0"}"#);
    let staged = lab.stage(&bundle, &Watcher::default()).unwrap();
    staged.finish().unwrap();
    works(&lab, &lab.path("slot.img"), 300);
}

#[test]
fn a_payload_is_always_laid_out_in_the_same_way() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("dom0")).unwrap();
    fs::create_dir_all(lab.path("web/d")).unwrap();
    for n in 0..400 {
        fs::write(lab.path(&format!("web/d/{n}")), noise(n * 700)).unwrap();
    }
    let layout = || {
        stage_web(&lab, 96 << 20);
        let mut found = Vec::new();
        web(&lab, |image| {
            lab.in_image(image, |root| {
                let all = format!("cd {} && filefrag -e d/* && ls -i d", root.display());
                found = run("bash", &["-c", &all]);
            });
        });
        found
    };
    let first = layout();
    assert!(!first.is_empty());
    for _ in 0..3 {
        assert!(first == layout(), "the order of workers shows");
    }
}

#[test]
fn a_directory_may_have_more_directories_than_links_count() {
    let lab = Lab::new();
    let names = (0..66_000).map(|n| dir(format!("{n:06}/").as_bytes()));
    let dom0 = Forged::in_frames(Part::Directories, &names.collect::<Vec<_>>(), 4_000);
    fs::write(lab.path("release.xupg"), lab.forge(&dom0, None)).unwrap();
    lab.empty_slot(512 << 20);
    let staged = lab.stage(&lab.path("release.xupg"), &Watcher::default());
    staged.unwrap().finish().unwrap();
    run("e2fsck", &["-fn", lab.path("slot.img").to_str().unwrap()]);
    lab.in_slot(|root| {
        assert_eq!(fs::metadata(root).unwrap().nlink(), 1);
        fs::create_dir(root.join("one-more")).unwrap();
    });
    run("e2fsck", &["-fn", lab.path("slot.img").to_str().unwrap()]);
}
